/** The gateway's HTTP interface, a function for each call that the console makes. */
import { call, path, stream } from "./http";
import type {
  BankInfo, Checkpoint, Diff, Digest, Edited, FactPage, FactsMap, LetterPage, LogEvent, Merge, Piece,
  Receipt, Replay, Status,
} from "./types";

export const FACTS_PAGE = 20;
export const EVENTS_PAGE = 50;

type Stop = AbortSignal | undefined;

export const status = (signal?: Stop) => call<Status>(path(["status"]), { signal });

export const banks = async (signal?: Stop) =>
  (await call<{ banks: BankInfo[] }>(path(["banks"]), { signal })).banks;

export const bank = async (name: string, signal?: Stop) =>
  (await call<{ info: BankInfo }>(path(["banks", name]), { signal })).info;

export const makeBank = (name: string, addressing: string, slots: number) =>
  call<unknown>(path(["banks"]), {
    body: { bank: name, addressing, ...(addressing === "slots" ? {} : { slots }) },
  });

export const deleteBank = (name: string) =>
  call<unknown>(path(["banks", name]), { method: "DELETE" });

export interface FactsQuery {
  search?: string;
  page_token?: string;
  at_version?: number;
}

/** A page of facts. A search looks at a part of the bank a call: it goes on until a page is full. */
export async function facts(name: string, query: FactsQuery, signal?: Stop): Promise<FactPage> {
  const look = (token: string | undefined, size: number) =>
    call<FactPage>(
      path(["banks", name, "facts"], { ...query, page_token: token, page_size: size }),
      { signal },
    );
  let page = await look(query.page_token, FACTS_PAGE);
  while (query.search && page.next_after && page.facts.length < FACTS_PAGE) {
    const more = await look(page.next_after, FACTS_PAGE - page.facts.length);
    page = { ...more, facts: [...page.facts, ...more.facts] };
  }
  return page;
}

/** A fact as of a version; undefined where it is not live then. */
export const fact = async (name: string, factId: string, at: number | undefined, signal?: Stop) =>
  (
    await call<FactPage>(path(["banks", name, "facts"], { fact_id: factId, at_version: at }), {
      signal,
    })
  ).facts.at(0);

export interface Draft {
  prompt: string;
  answer: string;
  rephrasings: string[];
  fact_id?: string;
  expected_version?: number;
  event_id: string;
}

export const write = (name: string, draft: Draft) =>
  call<Edited>(path(["banks", name, "facts"]), { body: draft });

export const forget = (name: string, factId: string) =>
  call<Edited>(path(["banks", name, "facts", factId]), { method: "DELETE" });

export const erase = (name: string, factIds: string[], eventId: string) =>
  call<unknown>(path(["banks", name, "erasures"]), {
    body: { fact_ids: factIds, event_id: eventId },
  });

export const receipt = async (name: string, eventId: string, signal?: Stop) =>
  (await call<{ receipt: Receipt }>(path(["banks", name, "erasures", eventId]), { signal }))
    .receipt;

export interface Question {
  prompt: string;
  at_version?: number;
  no_memory?: boolean;
  max_tokens?: number;
  temperature?: number;
  seed?: number;
}

export const ask = (name: string, question: Question, signal: Stop) =>
  stream<Piece>(path(["banks", name, "ask"]), { body: { ...question, stream: true }, signal });

export const map = (name: string, query: string, at: number | undefined, signal?: Stop) =>
  call<FactsMap>(path(["banks", name, "map"]), {
    body: { query: query || undefined, at_version: at },
    signal,
  });

export interface EventsQuery {
  after?: number;
  page_size?: number;
  fact_id?: string;
}

export const events = async (name: string, query: EventsQuery, signal?: Stop) =>
  (await call<{ events: LogEvent[] }>(path(["banks", name, "events"], { ...query }), { signal }))
    .events;

/** Events past a version, as they come; `opened` is told when the gateway has begun to answer. */
export const watch = (name: string, after: number, signal: Stop, opened: () => void) =>
  stream<LogEvent>(path(["banks", name, "events", "stream"], { after }), { signal }, opened);

export const digest = (name: string, at: number | undefined, signal?: Stop) =>
  call<Digest>(path(["banks", name, "digest"], { at_version: at }), { signal });

export interface DiffQuery {
  from_version: number;
  to_version?: number;
  to_bank?: string;
  page_token?: string;
}

export const diff = async (name: string, query: DiffQuery) =>
  (await call<{ diff: Diff }>(path(["banks", name, "diff"], { ...query }))).diff;

export const fork = (name: string, newBank: string, at: number | undefined) =>
  call<unknown>(path(["banks", name, "forks"]), {
    body: { new_bank: newBank, ...(at ? { at_version: at } : {}) },
  });

export interface MergeOrder {
  source: string;
  policy: string;
  merge_id: string;
  dry_run: boolean;
}

export const merge = async (target: string, order: MergeOrder) =>
  (await call<{ merge: Merge }>(path(["banks", target, "merges"]), { body: order })).merge;

export const checkpoint = (name: string) =>
  call<Checkpoint>(path(["banks", name, "checkpoints"]), { method: "POST" });

export const replay = (name: string) =>
  call<Replay>(path(["banks", name, "replay"]), { method: "POST" });

export const deadLetters = (token: string, signal?: Stop) =>
  call<LetterPage>(path(["dead-letters"], { page_token: token, page_size: 20 }), { signal });

export const requeue = (ids: string[]) =>
  call<{ requeued: number }>(path(["dead-letters", "requeue"]), { body: { letter_ids: ids } });

export const drop = (ids: string[]) =>
  call<{ dropped: number }>(path(["dead-letters", "drop"]), { body: { letter_ids: ids } });
