"""What is kept of an erasure, so that any worker can take it up."""

from __future__ import annotations

import json
import time

from google.protobuf import json_format

from larimar.v1 import common_pb2


class Job:
    """An erasure in work; what of it is kept is `text()`.

    Attributes:
        needles: what to search for; known to the worker that appended ERASE alone.
        is_refused: whether it is kept no longer: nothing of it was appended, or its bank is gone.
        through: the bank by which its family is reached: its own, unless that was deleted since.
    """

    def __init__(self, tenant: str, fact_ids: list[str], receipt: common_pb2.EraseReceipt) -> None:
        self.tenant = tenant
        self.fact_ids = fact_ids
        self.receipt = receipt
        self.needles: list[bytes] = []
        self.is_refused = False
        self.through = receipt.bank

    @property
    def name(self) -> str:
        """Under which it is kept."""
        return record_name(self.receipt.bank, self.receipt.event_id)

    def text(self, worker: str) -> str:
        """What is kept of it; no fact id any more once it is done."""
        done = self.receipt.step == common_pb2.ERASE_STEP_DONE
        return json.dumps(
            {
                "fact_ids": [] if done else self.fact_ids,
                "receipt": json_format.MessageToDict(
                    self.receipt, preserving_proto_field_name=True
                ),
                "worker": worker,
                "time": time.time(),
            }
        )

    @classmethod
    def parse(cls, tenant: str, text: str) -> tuple[Job, str, float]:
        """What `text` kept, the worker that did, and when (seconds since the Unix epoch)."""
        raw = json.loads(text)
        receipt = json_format.ParseDict(raw["receipt"], common_pb2.EraseReceipt())
        return cls(tenant, raw["fact_ids"], receipt), raw["worker"], raw["time"]


def record_name(bank: str, event_id: str) -> str:
    """Under which an erasure is kept."""
    return f"erase:{bank}:{event_id}"
