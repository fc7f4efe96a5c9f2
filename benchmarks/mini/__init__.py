"""How the embedded model `mini` is made: vocabulary, corpus, training, evaluation."""
