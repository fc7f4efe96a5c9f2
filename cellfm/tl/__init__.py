"""Tools: run the model and write the results to AnnData."""

from cellfm.tasks.annotation._annotator import Annotator
from cellfm.tasks.perturbation._predictor import PerturbationPredictor
from cellfm.tasks.transport._model import TransportModel
from cellfm.tl._annotate import annotate
from cellfm.tl._attention import attention
from cellfm.tl._attention_partners import attention_partners
from cellfm.tl._benchmark import benchmark
from cellfm.tl._compare_modules import compare_modules
from cellfm.tl._compare_transport import compare_transport
from cellfm.tl._embed import embed
from cellfm.tl._embed_genes import embed_genes
from cellfm.tl._enrich_modules import enrich_modules
from cellfm.tl._evaluate_annotation import evaluate_annotation
from cellfm.tl._evaluate_perturbation_ranking import evaluate_perturbation_ranking
from cellfm.tl._evaluate_unknowns import evaluate_unknowns
from cellfm.tl._fit_annotator import fit_annotator
from cellfm.tl._fit_perturbation import fit_perturbation
from cellfm.tl._fit_transport import fit_transport
from cellfm.tl._gene_contributions import gene_contributions
from cellfm.tl._gene_function import gene_function
from cellfm.tl._gene_modules import gene_modules
from cellfm.tl._gene_network import gene_network
from cellfm.tl._integrate import integrate
from cellfm.tl._perturb import perturb
from cellfm.tl._predict_gene_function import predict_gene_function
from cellfm.tl._rank_lncrnas import rank_lncrnas
from cellfm.tl._rank_perturbations import rank_perturbations
from cellfm.tl._score_modules import score_modules
from cellfm.tl._screen_perturbations import screen_perturbations
from cellfm.tl._transfer_labels import transfer_labels
from cellfm.tl._transport import transport

__all__ = [
    "Annotator",
    "PerturbationPredictor",
    "TransportModel",
    "annotate",
    "attention",
    "attention_partners",
    "benchmark",
    "compare_modules",
    "compare_transport",
    "embed",
    "embed_genes",
    "enrich_modules",
    "evaluate_annotation",
    "evaluate_perturbation_ranking",
    "evaluate_unknowns",
    "fit_annotator",
    "fit_perturbation",
    "fit_transport",
    "gene_contributions",
    "gene_function",
    "gene_modules",
    "gene_network",
    "integrate",
    "perturb",
    "predict_gene_function",
    "rank_lncrnas",
    "rank_perturbations",
    "score_modules",
    "screen_perturbations",
    "transfer_labels",
    "transport",
]
