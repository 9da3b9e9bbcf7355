"""The names of all metrics, each with its unit and its meaning: what a report's rows may hold.

docs/evaluation.md shows this table; tests/test_evaluation_all.py holds the two together. A metric
that is not here cannot be reported.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric's number is."""

    unit: str
    meaning: str


PERCENT, FRACTION, PERPLEXITY, SECONDS = "%", "0 to 1", "perplexity", "s"

METRICS: dict[str, Metric] = {
    # Edits one at a time or in batches: counterfact, ablations, batch.
    "edit_S": Metric(PERCENT, "edit prompts with P(new) > P(true)"),
    "edit_M": Metric(PERCENT, "100 x the mean of P(new) - P(true) at edit prompts"),
    "edit_argmax": Metric(
        PERCENT, "edit prompts after which each token of the new target is the most probable one"
    ),
    "edit_generated": Metric(PERCENT, "edit prompts whose greedy answer is the new target"),
    "edit_in_scope": Metric(PERCENT, "edit prompts that scope takes in"),
    "paraphrase_S": Metric(PERCENT, "as edit_S, at rephrased prompts without distractor"),
    "paraphrase_M": Metric(PERCENT, "as edit_M, at rephrased prompts without distractor"),
    "paraphrase_argmax": Metric(PERCENT, "as edit_argmax, at rephrased prompts without distractor"),
    "paraphrase_generated": Metric(
        PERCENT, "as edit_generated, at rephrased prompts without distractor"
    ),
    "paraphrase_in_scope": Metric(PERCENT, "rephrased prompts that scope takes in"),
    "paraphrase_raw_S": Metric(PERCENT, "as edit_S, at rephrased prompts as the file gives them"),
    "paraphrase_raw_M": Metric(PERCENT, "as edit_M, at rephrased prompts as the file gives them"),
    "paraphrase_raw_generated": Metric(
        PERCENT, "as edit_generated, at rephrased prompts as the file gives them"
    ),
    "paraphrase_raw_in_scope": Metric(
        PERCENT, "rephrased prompts as the file gives them that scope takes in"
    ),
    "neighborhood_S": Metric(PERCENT, "neighbour prompts with P(true) > P(new)"),
    "neighborhood_M": Metric(PERCENT, "100 x the mean of P(true) - P(new) at neighbour prompts"),
    "neighborhood_unchanged": Metric(
        PERCENT,
        "neighbour prompts, the first two of a record, that are continued letter for letter as by "
        "the base",
    ),
    "neighborhood_in_scope": Metric(PERCENT, "neighbour prompts that scope takes in"),
    "score": Metric(PERCENT, "harmonic mean of edit_S, paraphrase_S and neighborhood_S"),
    # Question answering: zsre.
    "edit_token_accuracy": Metric(
        PERCENT, "tokens of the new target that are the most probable ones, teacher-forced"
    ),
    "edit_exact_match": Metric(PERCENT, "edit questions whose greedy answer is the new target"),
    "edit_F1": Metric(PERCENT, "token F1 of greedy answer and new target"),
    "rephrase_token_accuracy": Metric(PERCENT, "as edit_token_accuracy, at rephrased questions"),
    "rephrase_exact_match": Metric(PERCENT, "as edit_exact_match, at rephrased questions"),
    "rephrase_F1": Metric(PERCENT, "as edit_F1, at rephrased questions"),
    "rephrase_in_scope": Metric(PERCENT, "rephrased questions that scope takes in"),
    "locality_unchanged": Metric(
        PERCENT, "questions about something else that are continued as by the base"
    ),
    "locality_token_accuracy": Metric(
        PERCENT, "tokens of their true answer that are the most probable ones"
    ),
    "locality_in_scope": Metric(PERCENT, "questions about something else that scope takes in"),
    # Many edits in a row: sequential.
    "retention_f1": Metric(PERCENT, "token F1 of the answers to all edits so far, after the last"),
    "retention_exact": Metric(PERCENT, "edits so far whose greedy answer is still the new target"),
    "retention_S": Metric(PERCENT, "edits so far with P(new) > P(true)"),
    "retention_in_scope": Metric(PERCENT, "prompts of edits so far that scope takes in"),
    "base_perplexity_before": Metric(PERPLEXITY, "of held-out text, before the edits"),
    "base_perplexity_after": Metric(PERPLEXITY, "of the same text, after the edits"),
    "text_unchanged": Metric(
        PERCENT, "passages of that text whose log probabilities are the same, bit for bit"
    ),
    "text_in_scope": Metric(PERCENT, "passages of that text that scope takes in"),
    # Rephrasings that were never written: rephrase, sequential.
    "unseen_f1": Metric(PERCENT, "as retention_f1, at rephrasings that were never written"),
    "unseen_exact": Metric(PERCENT, "as retention_exact, at rephrasings that were never written"),
    "unseen_S": Metric(PERCENT, "rephrasings that were never written with P(new) > P(true)"),
    "unseen_generated": Metric(
        PERCENT, "rephrasings that were never written whose greedy answer is the new target"
    ),
    "unseen_in_scope": Metric(PERCENT, "rephrasings that were never written that scope takes in"),
    # Forgetting: forget.
    "forgotten_recall_before": Metric(PERCENT, "facts to be forgotten that are answered before"),
    "forgotten_recall": Metric(PERCENT, "forgotten facts that are still answered"),
    "never_written_recall": Metric(
        PERCENT, "the same facts answered from a bank that never had them: guesses"
    ),
    "retained_recall_before": Metric(PERCENT, "the other facts, answered before"),
    "retained_recall": Metric(PERCENT, "the other facts that are still answered"),
    "retained_unchanged": Metric(PERCENT, "the other facts answered letter for letter as before"),
    "forgotten_S": Metric(PERCENT, "forgotten facts with P(new) > P(true)"),
    "retained_S": Metric(PERCENT, "the other facts with P(new) > P(true)"),
    "same_answers": Metric(
        PERCENT, "prompts answered and scored as from a bank that never had the forgotten facts"
    ),
    "same_digest": Metric(PERCENT, "banks whose digest is that of one that never had them"),
    # Noise on the address: noise.
    "target_perplexity": Metric(PERPLEXITY, "of the new target after its prompt"),
    "text_perplexity": Metric(PERPLEXITY, "of held-out text, decoded with what memory returns"),
    # Attacks and long contexts: leakage, longcontext.
    "known": Metric(PERCENT, "secrets that the undefended model gives away in the same attack"),
    "attack_success": Metric(PERCENT, "secrets that are in one of the sampled answers at least"),
    "recall": Metric(PERCENT, "questions whose answer is the fact's"),
    "provenance_hit": Metric(PERCENT, "questions whose heaviest passage is that with the fact"),
    "event_f1": Metric(PERCENT, "token F1 of the continued event and the rest of its text"),
    "event_provenance_hit": Metric(PERCENT, "events whose heaviest passage is their own"),
    "ingest_seconds": Metric("s", "wall clock of writing a whole document"),
    # Scope.
    "eer": Metric(PERCENT, "equal error rate of scope"),
    "eer_threshold": Metric("score", "threshold of the equal error rate"),
    "missed": Metric(PERCENT, "rephrasings that scope leaves out, at the model's threshold"),
    "taken": Metric(PERCENT, "neighbours that scope takes in, at the model's threshold"),
    "f1": Metric(FRACTION, "F1 of taking queries in, at the model's threshold"),
    "f1_at_eer": Metric(FRACTION, "the same at the threshold of the equal error rate"),
    "auc": Metric(FRACTION, "area under the ROC curve"),
    # The plain decoder.
    "perplexity": Metric(PERPLEXITY, "exp(NLL / words), a line end counted as a word"),
    "perplexity_words_only": Metric(PERPLEXITY, "exp(NLL / words), line ends not counted"),
    "token_perplexity": Metric(PERPLEXITY, "exp(NLL / tokens)"),
    # Time: speed, and beside others.
    "seconds_per_edit": Metric(SECONDS, "wall clock of writing a fact"),
    "edit_encode_seconds": Metric(SECONDS, "of these, latents of prompt and value"),
    "edit_scope_seconds": Metric(SECONDS, "of these, the sentence embedding"),
    "edit_fold_seconds": Metric(SECONDS, "of these, folding into the state"),
    "edit_other_seconds": Metric(SECONDS, "of these, the rest"),
    "seconds_per_query": Metric(SECONDS, "wall clock of one question, answer included"),
    "query_scope_seconds": Metric(SECONDS, "of these, the sentence embedding"),
    "query_find_seconds": Metric(SECONDS, "of these, the nearest fact and the decision"),
    "query_encode_seconds": Metric(SECONDS, "of these, the question's latent"),
    "query_read_seconds": Metric(SECONDS, "of these, reading memory"),
    "query_decode_seconds": Metric(SECONDS, "of these, decoding the answer"),
    "query_other_seconds": Metric(SECONDS, "of these, the rest"),
}
