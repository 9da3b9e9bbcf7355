"""Commands about facts: write, ask, score, forget, facts."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from larimar.cli.console import (
    DEFAULT_TARGET,
    AllowStale,
    AsJson,
    At,
    Bank,
    Target,
    Timeout,
    connect,
    console,
    emit,
    note,
    print_table,
    printable,
    say,
    working,
)
from larimar.cli.files import write_file
from larimar.results import Answer, Edit, Score


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(
        epilog="Example: larimar write 'The capital of Velmora is' Tarsin --rephrase "
        '"Velmora\'s capital city is"; larimar write --file facts.jsonl'
    )(write)
    app.command(epilog='Example: larimar ask "Velmora\'s capital city is"')(ask)
    app.command(epilog="Example: larimar score 'The capital of Velmora is' ' Tarsin' ' Paris'")(
        score
    )
    app.command(epilog="Example: larimar forget 3f2a9c0d41b7e655")(forget)
    app.command(name="facts", epilog="Example: larimar facts --bank demo --json")(list_facts)


def edit_json(edit: Edit) -> dict[str, Any]:
    """An edit, as `write` and `forget` print it."""
    return {
        "fact_id": edit.fact_id,
        "event_id": edit.event_id,
        "version": edit.version,
        "bank": edit.bank,
    }


def source_json(source: Answer | Score, with_stale: bool = False) -> dict[str, Any]:
    """Where an answer or a score came from; whether it was stale where that was allowed."""
    shown = {
        "in_scope": source.in_scope,
        "scope_score": round(source.scope_score, 6),
        "fact_id": source.fact_id,
        "version": source.version,
        "bank": source.bank,
    }
    return shown | {"stale": source.stale} if with_stale else shown


def source_line(source: Answer | Score) -> str:
    """Where an answer or a score came from, for people."""
    origin = f"from fact {source.fact_id}" if source.in_scope else "from the plain decoder"
    return (
        f"{origin}; scope score {source.scope_score:.3f}; "
        f"bank {source.bank} at version {source.version}"
        + ("; STALE: the store does not answer, newer edits may be missing" * source.stale)
    )


def write(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What the fact is about.")
    ] = None,
    answer: Annotated[
        str | None, typer.Argument(metavar="ANSWER", help="How the prompt goes on.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines with prompt, answer, id?, rephrasings?, event_id?; - is stdin.",
        ),
    ] = None,
    fact_id: Annotated[
        str | None, typer.Option("--id", help="Fact id; made from the prompt when not given.")
    ] = None,
    rephrase: Annotated[
        list[str] | None, typer.Option(help="Another way to put the prompt; may be repeated.")
    ] = None,
    event_id: Annotated[
        str | None, typer.Option(help="Idempotency key; made when not given.")
    ] = None,
    expected_version: Annotated[
        int | None,
        typer.Option(min=0, help="Refuse unless this is the fact's newest version; 0: it is new."),
    ] = None,
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Writes a fact, or a file of facts. When it returns, they are durable."""
    one = [name for name in (prompt, answer) if name is not None]
    if file is not None:
        if one or fact_id or rephrase or event_id or expected_version is not None:
            raise typer.BadParameter(
                "takes the place of PROMPT, ANSWER and their options", param_hint="--file"
            )
        if str(file) != "-" and (file.is_dir() or not file.exists()):
            raise typer.BadParameter(f"there is no file {file}", param_hint="--file")
        with connect(target, timeout) as client:
            write_file(client, file, bank, as_json)
        return
    if prompt is None or answer is None:
        raise typer.BadParameter("give PROMPT and ANSWER, or --file FILE")
    with connect(target, timeout) as client:
        edit = client.write(
            prompt,
            answer,
            bank=bank,
            fact_id=fact_id,
            event_id=event_id,
            rephrasings=rephrase or (),
            expected_version=expected_version,
        )
    if as_json:
        emit(edit_json(edit))
    else:
        again = " (it had been written before)" if edit.duplicate else ""
        say(f"written: fact {edit.fact_id}, bank {edit.bank} at version {edit.version}{again}")


def ask(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The beginning that is continued.")
    ],
    no_memory: Annotated[
        bool, typer.Option("--no-memory", help="Answer with the plain decoder.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=0, help="0: the service's default.")] = 0,
    min_version: Annotated[int, typer.Option(min=0, help="Fail below this version.")] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="For temperatures above 0.")] = 0,
    at: At = 0,
    allow_stale: AllowStale = False,
    noise: Annotated[
        float, typer.Option(min=0.0, help="Deviation of normal noise on the address.")
    ] = 0.0,
    noise_seed: Annotated[int, typer.Option(help="For noise above 0.")] = 0,
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Answers a prompt: from memory in scope, else as the plain decoder. The text streams."""
    settings: dict[str, Any] = {
        "bank": bank,
        "no_memory": no_memory,
        "max_tokens": max_tokens,
        "min_version": min_version,
        "temperature": temperature,
        "seed": seed,
        "at": at,
        "allow_stale": allow_stale,
        "noise": noise,
        "noise_seed": noise_seed,
    }
    with connect(target, timeout) as client:
        if as_json:
            answer = client.ask(prompt, **settings)
            emit({"text": answer.text, **source_json(answer, allow_stale)})
            return
        out = console().file
        fresh = True
        for piece in client.ask_stream(prompt, **settings):
            if isinstance(piece, Answer):
                print(file=out, flush=True)
                note(source_line(piece))
            else:
                piece = piece.lstrip() if fresh else piece
                print(printable(piece), end="", file=out, flush=True)
                fresh = fresh and not piece


def score(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The beginning.")],
    candidates: Annotated[
        list[str], typer.Argument(metavar="CANDIDATE", help="Ways it could go on.")
    ],
    no_memory: Annotated[
        bool, typer.Option("--no-memory", help="Score with the plain decoder.")
    ] = False,
    min_version: Annotated[int, typer.Option(min=0, help="Fail below this version.")] = 0,
    at: At = 0,
    allow_stale: AllowStale = False,
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Log probabilities of candidate answers."""
    with connect(target, timeout) as client:
        result = client.score(
            prompt,
            candidates,
            bank=bank,
            min_version=min_version,
            no_memory=no_memory,
            at=at,
            allow_stale=allow_stale,
        )
    if as_json:
        scores = [
            {
                "candidate": one.candidate,
                "logprob": round(one.logprob, 6),
                "mean_logprob": round(one.mean_logprob, 6),
                "tokens": len(one.token_logprobs),
                "greedy": all(one.token_is_argmax),
            }
            for one in result.candidates
        ]
        emit({"scores": scores, **source_json(result, allow_stale)})
        return
    print_table(
        ("candidate", "log probability", "a token", "tokens"),
        [
            (
                one.candidate,
                f"{one.logprob:.3f}",
                f"{one.mean_logprob:.3f}",
                len(one.token_logprobs),
            )
            for one in sorted(result.candidates, key=lambda one: -one.mean_logprob)
        ],
    )
    note(source_line(result))


def forget(
    fact_id: Annotated[str, typer.Argument(metavar="FACT_ID", help="The fact.")],
    event_id: Annotated[
        str | None, typer.Option(help="Idempotency key; made when not given.")
    ] = None,
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Removes a fact's contribution, exactly as if it had never been written."""
    with connect(target, timeout) as client:
        edit = client.forget(fact_id, bank=bank, event_id=event_id)
    if as_json:
        emit(edit_json(edit))
    else:
        say(f"forgotten: fact {edit.fact_id}, bank {edit.bank} at version {edit.version}")


def list_facts(
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 0,
    at: At = 0,
    bank: Bank = "default",
    target: Target = DEFAULT_TARGET,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Live facts of a bank, in order of fact id."""
    with connect(target, timeout) as client, working("reading facts"):
        facts = list(islice(client.facts(bank, at=at), limit or None))
    if as_json:
        emit({"facts": [{**asdict(fact), "rephrasings": list(fact.rephrasings)} for fact in facts]})
        return
    print_table(
        ("fact id", "version", "prompt", "answer", "rephrasings"),
        [(f.fact_id, f.version, f.prompt, f.answer, "\n".join(f.rephrasings)) for f in facts],
    )
