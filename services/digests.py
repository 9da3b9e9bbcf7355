"""Whose latents these are: a bank, its latents and the serving model must be of one encoder."""

from __future__ import annotations

from larimar.errors import FailedPrecondition, Unavailable


def check_digest(what: str, sent: str, bank: str, call: str = "write") -> None:
    """Compares what made the vectors of a call with what made those of its bank.

    Args:
        what: encoder or scope.
        sent: digest of what made the call's vectors.
        bank: digest of what made the bank's.
        call: write or read, for the message.

    Raises:
        FailedPrecondition: WRONG_ENCODER or WRONG_SCOPE, they are not the same.
    """
    if sent != bank:
        raise FailedPrecondition(
            f"the bank was made with {what} {bank[:12]}, this {call} comes from {what} "
            f"{sent[:12] or '(none)'}: serve the bank's own model, or make a new bank",
            f"WRONG_{what.upper()}",
        )


def check_latent(sent: str, serving: str) -> None:
    """Compares the encoder of a latent with the one that a decoder was trained with.

    Services change their model one after the other: for that time a latent of the one model may
    meet the decoder of the other.

    Args:
        sent: digest of the latent's encoder; empty is not compared.

    Raises:
        Unavailable: MODEL_CHANGES, they are not the same.
    """
    if sent and sent != serving:
        raise Unavailable(
            f"the latent comes from encoder {sent[:12]}, and this decoder belongs to encoder "
            f"{serving[:12]}: the pipeline changes its model, retry",
            "MODEL_CHANGES",
        )
