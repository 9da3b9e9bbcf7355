"""What the paper reports, to stand beside our figures. Its decoders are other, larger models.

Source: [L], Das et al., arXiv 2403.11901, in percent but for the F1 of scope; where a later
version of the paper changed a figure, both stand, the first version's first. What is not here is
left blank.
"""

from __future__ import annotations

COUNTERFACT = {
    "[L] GPT-2 1.3B": {"paraphrase_S": "41.7 / 83.5"},
    "[L] GPT-J 6B": {"paraphrase_S": "76.5 / 88.4"},
}
"""Columns of other base models: metric to figure."""
SEQUENTIAL = {"[L], 1,000 edits": {"retention_f1": "97"}}
"""Table 3: token F1 of all edits after 1,000 in a row, here in percent."""
BATCH = {"[L] 1,024 facts": {"edit_S": "82"}}
"""Figure 2: rewrites that hold with 1,024 facts at once."""
FORGET = {"[L] N = 2K": {"retained_recall": "79"}}
"""Table 4: recall of the facts that were not forgotten, in percent."""
SCOPE = {"[L] ESD": {"eer": "2.9", "f1": "0.974"}}
"""Section 4, on 3,800 samples of EasyEdit."""
NOTE = (
    "Figures marked [L] are the paper's own, on other base models (first version of the paper / a "
    "later one)."
)
