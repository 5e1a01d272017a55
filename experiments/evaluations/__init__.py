"""Evaluations of trained networks by name: a config names its evaluation."""

from experiments.evaluations import retrieval, transfer, zero_shot

EVALUATIONS = {
    evaluation.name: evaluation
    for evaluation in (retrieval.EVALUATION, transfer.EVALUATION, zero_shot.EVALUATION)
}
