"""Archives: a bank with its log, out of the store and into another, entry for entry."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from larimar.errors import Conflict, DataLoss, FailedPrecondition, NotFound
from larimar.memory import BankState, Event, Kind
from larimar.v1 import common_pb2, memory_pb2
from larimar.wire import config_from_proto, config_to_proto
from services.follower import Follower
from services.log import Log, Stored
from services.log_rules import SALT_BYTES, bank_edited
from services.memory.events import KINDS, event_to_proto
from services.threads import finished

DUMP_ENTRIES = 500
"""Entries read at once."""
DUMP_BYTES = 3 * 2**20
"""Payload bytes after which a message goes out: a message holds at most 8 MiB."""


class Archivist:
    """Dumps and loads banks over the log port."""

    def __init__(self, log: Log, follower: Follower) -> None:
        self._log = log
        self._follower = follower

    async def dump(
        self, tenant: str, bank: str, after: int = 0
    ) -> AsyncIterator[memory_pb2.DumpBankResponse]:
        """The header of a bank at its newest version, then every entry past `after` up to it.

        Raises:
            FailedPrecondition: ERASED_MEANWHILE, facts were erased on the way: begin again.
            DataLoss, Unavailable: as Follower.state.
        """
        erased = await self._log.erased(tenant, bank)
        async with self._follower.state(tenant, bank) as state:
            version, chain = state.version, state.chain
            digest = await finished(state.digest)
        config = await self._log.bank_config(tenant, bank)
        yield memory_pb2.DumpBankResponse(
            header=common_pb2.ArchiveHeader(
                config=config_to_proto(bank, config),
                version=version,
                chain=chain,
                erase_count=len(erased),
                erased_fact_ids=sorted(erased),
                digest=digest,
            )
        )
        while after < version:
            limit = min(DUMP_ENTRIES, version - after)
            page = await self._log.stored(tenant, bank, after, limit)
            for records in _messages(page):
                yield memory_pb2.DumpBankResponse(records=records)
            after = page[-1].event.version
        if await self._log.erased(tenant, bank) != erased:
            raise FailedPrecondition(
                "facts were erased while the bank was exported: export it again", "ERASED_MEANWHILE"
            )

    async def load(
        self,
        tenant: str,
        bank: str,
        records: Sequence[common_pb2.ArchiveRecord],
        source: str = "",
        replaces: bool = False,
    ) -> tuple[int, str]:
        """Takes the next records of a bank that is being loaded, and returns the version and chain
        value it has come to. Safe to repeat.

        Args:
            source, replaces: as of Log.load.

        Raises:
            Conflict: BANK_EXISTS.
            FailedPrecondition: ERASED_MEANWHILE, what was loaded before is gone: begin again.
            DataLoss: a record is not what was dumped.
        """
        entries = [_stored(one) for one in records]
        goes_on = bool(entries) and entries[0].event.version > 1
        async with self._unless_swept(tenant, bank, source, replaces, goes_on):
            return await self._log.load(tenant, bank, entries, source, replaces)

    @contextlib.asynccontextmanager
    async def _unless_swept(
        self, tenant: str, bank: str, source: str, replaces: bool, goes_on: bool
    ) -> AsyncIterator[None]:
        """Says of what goes on with something that is not loaded any more why that is so."""
        try:
            yield
        except DataLoss as error:
            if goes_on and await self._log.load(tenant, bank, (), source, replaces) == (0, ""):
                raise FailedPrecondition(
                    "what was loaded of the archive is gone: facts were erased from its log "
                    "meanwhile, or it was left for a day; import it again from the start",
                    "ERASED_MEANWHILE",
                ) from error
            raise

    async def finish(
        self,
        tenant: str,
        bank: str,
        header: common_pb2.ArchiveHeader,
        source: str = "",
        replaces: int | None = None,
    ) -> tuple[str, bool]:
        """Makes a loaded bank visible, and compares it with what was dumped: (digest, made).

        A bank that is there already and is this very one is taken as loaded. A header without a
        digest is compared by version and chain.

        Args:
            replaces: version at which the bank of this name is replaced; None where there is none.

        Raises:
            Conflict: BANK_EXISTS, another bank has the name.
            FailedPrecondition: BANK_EDITED, the bank to replace is at another version by now.
            DataLoss: not what was dumped; the bank is removed again, unless it replaced one or
                has had edits since.
        """
        config = config_from_proto(header.config)
        if len(set(header.erased_fact_ids)) != header.erase_count:
            raise _bad_archive("the archive does not name as many erased facts as it counts")
        made = not await self.is_loaded(tenant, bank, header, replaces is not None)
        if not made and replaces is not None:
            await self._log.sweep_loads(tenant)  # what a call before left of the replaced bank
        if made:
            erased = list(header.erased_fact_ids)
            head = None if replaces is None else await self._head_at(tenant, bank, replaces)
            if head is not None:
                await self._check_chain(tenant, bank, header, source)
            over, goes_on = replaces is not None, header.version > 0
            async with self._unless_swept(tenant, bank, source, over, goes_on):
                await self._log.publish(tenant, bank, config, erased, header.version, source, head)
        try:
            compared = header if made or replaces is not None else None
            found = await self._found(tenant, bank, compared)
        except DataLoss:
            if not made:
                raise
            found = (0, "", "")
        if made and found != (header.version, header.chain, header.digest or found[2]):
            stays = replaces is not None or not await self._dropped(tenant, bank, header)
            raise _bad_archive(
                "the archive does not give the digest that it names"
                + (f"; bank {bank!r} has edits of its own by now and stays" if stays else "")
            )
        return found[2], made

    async def _dropped(self, tenant: str, bank: str, header: common_pb2.ArchiveHeader) -> bool:
        """Removes a bank that nobody has edited since it was loaded; whether it is gone."""
        with contextlib.suppress(NotFound):
            version, chain, _ = await self._log.head(tenant, bank)
            if version != header.version:
                return False
            try:
                await self._log.drop_bank(tenant, bank, (version, chain))
            except FailedPrecondition:  # edited at this moment, or forked
                return False
        return True

    async def _found(
        self, tenant: str, bank: str, header: common_pb2.ArchiveHeader | None
    ) -> tuple[int, str, str]:
        """Version, chain and digest of a bank; at a header's version where it is edited already."""
        async with self._follower.state(tenant, bank) as state:
            if header is None or state.version == header.version:
                return await _sums(state, header)
            if not header.version:
                return 0, "", header.digest
        async with self._follower.view(tenant, bank, at_version=header.version) as view:
            return await _sums(view.state, header)

    async def _head_at(self, tenant: str, bank: str, version: int) -> tuple[int, str]:
        """Version and chain of a bank that is at this version. Raises: FailedPrecondition."""
        found, chain, _ = await self._log.head(tenant, bank)
        if found != version:
            raise bank_edited(bank)
        return found, chain

    async def _check_chain(
        self, tenant: str, bank: str, header: common_pb2.ArchiveHeader, source: str
    ) -> None:
        """Compares what is loaded with the header while the old bank serves. Raises: DataLoss."""
        loaded = await self._log.load(tenant, bank, (), source, True)
        if loaded != (header.version, header.chain):
            raise _bad_archive(
                f"what was loaded ends at version {loaded[0]}, and is not what the archive names"
            )

    async def is_loaded(
        self,
        tenant: str,
        bank: str,
        header: common_pb2.ArchiveHeader,
        replaces: bool = False,
    ) -> bool:
        """Whether the bank of this name is the one that the header describes.

        Args:
            replaces: another one of this name is to be replaced, and no error.

        Raises:
            Conflict: BANK_EXISTS, another bank has the name.
        """
        try:
            config = await self._log.bank_config(tenant, bank)
        except NotFound:
            return False
        same = config == config_from_proto(header.config)
        if same and header.version:
            events = await self._log.events(tenant, bank, header.version - 1, 1)
            same = bool(events) and events[0].chain == header.chain
        if not same and not replaces:
            raise Conflict(
                f"bank {bank!r} exists, and is another one than the archive's: import it under "
                "another name",
                "BANK_EXISTS",
            )
        return same


def _bad_archive(what: str) -> DataLoss:
    return DataLoss(f"{what}: export the bank again", "BAD_ARCHIVE")


async def _sums(state: BankState, header: common_pb2.ArchiveHeader | None) -> tuple[int, str, str]:
    """Version, chain and digest; the header's where erasures since leave none to compare with."""
    if header is not None and state.erase_count != header.erase_count:
        return state.version, state.chain, header.digest
    return state.version, state.chain, await finished(state.digest)


def _messages(page: Sequence[Stored]) -> list[list[common_pb2.ArchiveRecord]]:
    messages: list[list[common_pb2.ArchiveRecord]] = [[]]
    size = 0
    for stored in page:
        salted = stored.salted or b""
        if size and size + len(salted) > DUMP_BYTES:
            messages.append([])
            size = 0
        messages[-1].append(
            common_pb2.ArchiveRecord(
                event=event_to_proto(stored.event, erased=_is_erased(stored)),
                salt=salted[:SALT_BYTES],
                payload=salted[SALT_BYTES:],
                request_hmac=stored.request_hmac,
            )
        )
        size += len(salted)
    return messages


def _is_erased(stored: Stored) -> bool:
    return stored.event.kind == Kind.WRITE and stored.salted is None


def _stored(record: common_pb2.ArchiveRecord) -> Stored:
    event = record.event
    kind = KINDS.get(event.kind)
    if kind is None:
        raise DataLoss(f"version {event.version} of the archive has no kind", "BAD_ARCHIVE")
    return Stored(
        Event(
            event.version,
            kind,
            event.fact_id,
            event.event_id,
            event.time_ms,
            event.payload_sha256,
            event.chain,
            event.previous_version,
        ),
        record.salt + record.payload if record.payload else None,
        record.request_hmac,
    )
