"""What the paper reports, to stand beside our figures. Its decoders are other, larger models.

Source: [L], Das et al., arXiv 2403.11901: Table 2, in percent; where a later version of the
paper changed a figure, both stand, the first version's first. What is not here is left blank.
"""

from __future__ import annotations

COUNTERFACT = {
    "[L] GPT-2 1.3B": {"paraphrase_S": "41.7 / 83.5"},
    "[L] GPT-J 6B": {"paraphrase_S": "76.5 / 88.4"},
}
"""Columns of other base models: metric to figure."""
NOTE = (
    "Columns marked [L] are the paper's own figures, on other base models (first version of the "
    "paper / a later one)."
)
