"""Fits and predictions behind the tools, one folder for each task; works on arrays and models, and never writes to
AnnData.
"""
