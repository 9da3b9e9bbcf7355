"""What a model says of 200 made-up facts: `python examples/said.py [MODEL ...]`.

All facts of facts.jsonl are in one memory, scope decides by esd; an answer counts when it is the
whole text, without case. Prompts, then the two rephrasings of each, which were not written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import larimar

HERE = Path(__file__).parent
MAX_TOKENS = 12


def said(folder: str) -> tuple[int, int]:
    """Facts said on their prompts, and on their rephrasings."""
    facts = [json.loads(line) for line in (HERE / "facts.jsonl").read_text().splitlines()]
    model = larimar.load(folder, detector="esd")
    model.write_many([{name: fact[name] for name in ("id", "prompt", "answer")} for fact in facts])

    def count(prompts: list[str]) -> int:
        answers = model.ask_many(prompts, MAX_TOKENS)
        return sum(
            answer.text.strip(" .").casefold() == fact["answer"].casefold()
            for answer, fact in zip(answers, facts, strict=True)
        )

    rephrased = [count([fact["rephrasings"][n] for fact in facts]) for n in (0, 1)]
    return count([fact["prompt"] for fact in facts]), sum(rephrased)


if __name__ == "__main__":
    for folder in sys.argv[1:] or [str(HERE.parent / "models" / "larimar-small")]:
        prompts, rephrasings = said(folder)
        print(f"{folder}: {prompts} of 200 prompts, {rephrasings} of 400 rephrasings")
