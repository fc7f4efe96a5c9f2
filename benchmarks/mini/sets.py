"""The data sets of `mini` by group, how their values are stored, and their cell types in one vocabulary."""

import re

GROUPS = {
    "pancreas": (
        "pancreas_cepo",
        "pancreas_panc8_small_noindrop",
        "pancreas_wang_scclassify",
        "pancreas_xin_scclassify",
    ),
    "stimulated blood": ("kang_ifnb_pbmc", "mait_mast"),
    "cell lines": (
        "celllines_a549_dex_scai",
        "celllines_hashing_scds",
        "celllines_hos_hct116_a375",
        "neuroblastoma_ngp_spsimseq",
        "perturb_norman19_sub",
        "pollen2014_11celltypes",
        "scmix_3cellline",
    ),
    "brain": (
        "brain_darmanis2015",
        "drawn_brain_darmanis2015",
        "glioblastoma_panobinostat_lemur",
        "oligodendroglioma_infercnv",
    ),
    "tumours": (
        "breast_tnbc_wu2021_cid4465",
        "breast_tumour_copykat",
        "colon_crc_scorpion",
        "crc_tumor_scmetalink",
        "malt_lymphoma_10x",
        "melanoma_tcells_scfeatures",
        "melanoma_tirosh2016_chetah",
        "pancreas_pdac_cardspa",
        "thyroid_atc2_numbat",
    ),
    "fetal": (
        "embryo_blakeley2015",
        "embryo_yan2013",
        "fetal_cortex_nowakowski_ensdeconv",
        "fetal_gonad_male_li2017",
        "hesc_yan2013_scfeaturefilter",
    ),
}
"""Sets of a tissue or kind; all others, most of them of blood, are in every training."""

FOLDS = {
    "groups A": tuple(name for group in ("pancreas", "cell lines", "brain") for name in GROUPS[group]),
    "groups B": tuple(name for group in ("stimulated blood", "tumours", "fetal") for name in GROUPS[group]),
    "sets": (
        "breast_tnbc_wu2021_cid4465",
        "celllines_hashing_scds",
        "crc_tumor_scmetalink",
        "fetal_cortex_nowakowski_ensdeconv",
        "kang_ifnb_pbmc",
        "oligodendroglioma_infercnv",
        "pancreas_cepo",
        "pancreas_panc8_small_noindrop",
        "scmix_3cellline",
    ),
}
"""Sets that one training leaves out together: whole groups of a tissue, or sets of each group while others of it stay.

The recipe is chosen by the mean of the vote of neighbours and AvgBio over the judged sets of the three.
"""

JUDGED = {
    "pancreas": {
        "pancreas_cepo": "batch",
        "pancreas_panc8_small_noindrop": "batch",
        "pancreas_xin_scclassify": None,
    },
    "stimulated blood": {"kang_ifnb_pbmc": "condition"},
    "cell lines": {"celllines_hashing_scds": "batch", "scmix_3cellline": "batch", "pollen2014_11celltypes": None},
    "brain": {"brain_darmanis2015": None, "oligodendroglioma_infercnv": "batch"},
    "tumours": {
        "breast_tnbc_wu2021_cid4465": None,
        "crc_tumor_scmetalink": None,
        "melanoma_tcells_scfeatures": "batch",
        "pancreas_pdac_cardspa": None,
    },
    "fetal": {"fetal_cortex_nowakowski_ensdeconv": "batch", "fetal_gonad_male_li2017": "batch"},
}
"""Sets with two labels or more in a hundred cells or more, and the column across which neighbours are sought."""

STORED = {
    "dendritic_sciber": "log",
    "melanoma_tcells_scfeatures": "log2",
    "melanoma_tirosh2016_chetah": "log2",
    "pancreas_wang_scclassify": "log2",
    "pancreas_xin_scclassify": "log2",
    "lymph_node_LEC_avg": "log",
    "rca_globalpanel_stem_tissue": "log10",
    "rca_globalpanel_tissue_biogps": "log10",
}
"""Sets and profile tables that hold logarithms; the others hold linear values, most of them counts."""

NOT_USED = (
    "pbmc_hao_deconvbench",  # no licence
    "pbmc3k_clustifyr",  # the cells of pbmc3k_full, fewer genes
    "pbmc_hao2021_ucell",  # cells of pbmc_hao2021_speck, as are the next
    "pbmc_tiny_hao2021",
    "pollen2014_npc_scde",  # cells of pollen2014_11celltypes
)
"""Sets whose cells others hold, processed otherwise, so that counts do not show it; and one without a licence."""

PROFILES_NOT_USED = ("abis_s0_granulator", "lm22_cibersort", "lm22_source_gep", "novershtern_hema_microarray")
"""Few genes or array intensities of blood, and one licence that forbids commercial use."""

DRAWN_APART = {"Brain_Darmanis": "drawn_brain_darmanis2015"}
"""Profiles (the beginnings of their names) that are means of cells of a judged set, and the set drawn from them."""

NO_TYPE = ("", "?", "doublet", "negative", "mito", "unassigned", "unknown", "dying cells")
_NODE = re.compile(r"node\d+")

# Names of the sources, in lower case, to one vocabulary. What is not listed keeps its name.
_SAME = {
    "B cell": "b|b cells|b-cells|bcell|cd19+ b|b intermediate|b memory|b naive",
    "plasma cell": "plasma|plasma cells|plasmablast|plasmablasts",
    "T cell": "t|t-cells|tcells|t cd4-cd8-",
    "CD4 T cell": "cd4 t|cd4 t cells|t_cd4|cd4+ t helper2|t cells cd4 conv",
    "naive CD4 T cell": "naive cd4 t|cd4+/cd45ra+/cd25- naive t",
    "memory CD4 T cell": "memory cd4 t|cd4+/cd45ro+ memory",
    "regulatory T cell": "regulatory t|cd4+/cd25 t reg|reg. t cell|tregs",
    "CD8 T cell": "cd8 t|cd8 t cells|t_cd8|t cells cd8",
    "naive CD8 T cell": "cd8+/cd45ra+ naive cytotoxic",
    "cytotoxic T cell": "cytotoxic t cell|cd8+ cytotoxic t|t cyto|cytotoxic cd8",
    "NK cell": "nk|nk cells|cd56+ nk|cd56_nk|nk_cd56bright",
    "monocyte": "monocytes|mono",
    "CD14 monocyte": "cd14+ mono|cd14+ monocyte|cd14+ monocytes",
    "CD16 monocyte": "fcgr3a+ mono|fcgr3a+ monocytes|cd16+ monocyte",
    "macrophage": "mac|macrophages_a|macrophages_b|tam|normal macrophage",
    "myeloid cell": "mnp|myeloid",
    "conventional dendritic cell": "dc|dcs|mdc|mdcs_a|mdcs_b|cd1c|cd141",
    "plasmacytoid dendritic cell": "pdc|pdcs",
    "mast cell": "mast|mast_cells",
    "platelet": "platelet|platelets",
    "erythroid cell": "erythroid|rbcs",
    "haematopoietic progenitor": "cd34+|hsc|progenitors",
    "endothelial cell": "endo|endothelial|endothelial_cells",
    "fibroblast": "fibo|fibroblasts|normal fibroblast",
    "cancer-associated fibroblast": "caf|cafs",
    "pericyte": "perc|pvl",
    "smooth muscle cell": "smc",
    "epithelial cell": "epi|normal epithelial",
    "malignant cell": "malignant|tumor epithelial|cancer epithelial|cancer_clone_a|cancer_clone_b",
    "alpha cell": "alpha",
    "beta cell": "beta",
    "delta cell": "delta",
    "gamma cell": "gamma",
    "acinar cell": "acinar|acinar_cells",
    "ductal cell": "ductal|ductal_apol1_high-hypoxic|ductal_crisp3_high-centroacinar_like|ductal_mhc_class_ii"
    "|ductal_terminal_ductal_like",
    "astrocyte": "astro",
    "microglia": "micro|microglia/macrophage",
    "oligodendrocyte": "olig|oligodendrocyte|oligodendrocytes (non-malignant)",
    "oligodendrocyte precursor": "opc",
    "neuron": "neuron",
    "excitatory neuron": "exn",
    "inhibitory neuron": "inn",
}
_TYPE_OF = {name: cell_type for cell_type, names in _SAME.items() for name in names.split("|")}


def type_of(label: str) -> str:
    """The cell type that a source's label stands for, "" where it stands for none."""
    name = label.strip().lower()
    if name in NO_TYPE or name == "nan" or _NODE.fullmatch(name):
        return ""
    return _TYPE_OF.get(name, label.strip())


def group_of(name: str) -> str:
    """The group of a set, "others" where it has none."""
    return next((group for group, names in GROUPS.items() if name in names), "others")
