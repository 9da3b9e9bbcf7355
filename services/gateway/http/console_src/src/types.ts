/** What the gateway answers: the contracts of protos/larimar/v1, in JSON. */
export interface BankConfig {
  bank: string;
  addressing: string;
  slots: number;
  prompt_size: number;
  value_size: number;
  scope_size: number;
  encoder_digest: string;
  scope_digest: string;
  config_digest: string;
}

export interface BankInfo {
  config: BankConfig;
  version: number;
  facts: number;
  state_bytes: number;
  erase_count: number;
  fill: number;
  origin: { bank: string; version: number } | null;
  /** Why the log of a bank in a list cannot be read; else empty. */
  stopped: string;
}

export interface Fact {
  fact_id: string;
  prompt: string;
  answer: string;
  rephrasings: string[];
  version: number;
}

export interface FactPage {
  facts: Fact[];
  version: number;
  total: number;
  next_after: string;
}

export interface MappedFact extends Fact {
  x: number;
  y: number;
  similarity: number | null;
}

export interface FactsMap {
  version: number;
  total: number;
  facts: MappedFact[];
  query: [number, number] | null;
}

export interface LogEvent {
  version: number;
  kind: string;
  fact_id: string;
  event_id: string;
  time_ms: number;
  previous_version: number;
  erased: boolean;
}

export interface Edited {
  fact_id: string;
  event_id: string;
  version: number;
  bank: string;
  duplicate: boolean;
}

export interface Provenance {
  in_scope: boolean;
  scope_score: number;
  fact_id: string;
  version: number;
  bank: string;
  stale: boolean;
  nearest_fact_id: string;
  scope_threshold: number;
}

export interface Piece {
  text: string;
  finish_reason: string;
  tokens: number;
  provenance: Provenance | null;
}

export interface Receipt {
  event_id: string;
  bank: string;
  step: string;
  fact_id_sha256: string[];
  banks: {
    bank: string;
    versions: number[];
    version: number;
    erase_count: number;
    digest: string;
    replay_matches: boolean;
  }[];
  payloads_removed: number;
  checkpoints_removed: number;
  queue_entries_removed: number;
  scan: {
    keys: number;
    files: number;
    bytes: number;
    found: number;
    found_before: number;
    not_searched: string;
  } | null;
  started_ms: number;
  finished_ms: number;
  failure: string;
}

export interface Digest {
  bank: string;
  version: number;
  facts: number;
  digest: string;
  erase_count: number;
}

export interface Replay {
  version: number;
  events: number;
  seconds: number;
  digest: string;
  matches: boolean;
}

export interface Checkpoint {
  version: number;
  digest: string;
  bytes: number;
}

export interface FactChange {
  kind: string;
  fact_id: string;
  before: Fact | null;
  after: Fact | null;
}

export interface Diff {
  changes: FactChange[];
  from_version: number;
  to_version: number;
  added: number;
  removed: number;
  changed: number;
  next_after: string;
}

export interface Merge {
  merge_id: string;
  base_version: number;
  source_version: number;
  target_version: number;
  written: number;
  forgotten: number;
  conflicts: {
    fact_id: string;
    base_version: number;
    target_version: number;
    source_version: number;
  }[];
  conflict_count: number;
  overtaken: string[];
  version: number;
}

export interface DeadLetter {
  letter_id: string;
  event: string;
  reason: string;
  message: string;
  tries: number;
  time_ms: number;
  inbox_id: string;
}

export interface LetterPage {
  letters: DeadLetter[];
  total: number;
  next_after: string;
}

export interface Status {
  services: { name: string; ready: boolean; detail: string; pid: number }[];
  model_digest: string;
  encoder_digest: string;
  scope_digest: string;
  version: string;
}
