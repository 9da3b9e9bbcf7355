/** One bank: its name and size, the version that is looked at, and a view of it. */
import { useState } from "preact/hooks";
import * as api from "./api";
import { Ask } from "./ask";
import { Branches } from "./branches";
import { Facts } from "./facts";
import { count, plural } from "./format";
import { Health } from "./health";
import { useEvery, useLoad, useRested } from "./hooks";
import { Log } from "./log";
import { FactsMap } from "./map";
import { TABS, type Tab, bankLink } from "./route";
import { TimeBar } from "./timebar";
import type { BankInfo } from "./types";
import { Badge, ErrorNote } from "./ui";

const LOOK_MS = 5000;
const REST_MS = 300;
/** The views of one version. */
const TIMED: Tab[] = ["ask", "facts", "map", "health"];

/** What a view of a bank is given. */
export interface Looked {
  info: BankInfo;
  /** The past version that is looked at; undefined for the newest. */
  at: number | undefined;
  setAt: (version: number | undefined) => void;
  /** Told after an edit, so that sizes and versions are fetched again. */
  onEdit: () => void;
  banks: BankInfo[];
}

interface BankProps {
  name: string;
  tab: Tab;
  banks: BankInfo[];
  onBanks: () => void;
}

export function Bank({ name, tab, banks, onBanks }: BankProps) {
  const loaded = useLoad((signal) => api.bank(name, signal), [name]);
  const [chosen, setAt] = useState<number | undefined>(undefined);
  const at = useRested(chosen, REST_MS);
  useEvery(LOOK_MS, loaded.reload);
  const info = loaded.data;
  if (!info) return <ErrorNote error={loaded.error} />;
  const onEdit = () => {
    loaded.reload();
    onBanks();
  };
  const looked: Looked = { info, at, setAt, onEdit, banks };
  return (
    <>
      <header class="bank-head">
        <h1 class="cut">{name}</h1>
        <p class="bank-facts">
          <Badge>{info.config.addressing}</Badge>
          <span>{plural(info.facts, "fact")}</span>
          <span>version {count(info.version)}</span>
          {info.origin && (
            <span>
              fork of <a href={bankLink(info.origin.bank)}>{info.origin.bank}</a> at version{" "}
              {count(info.origin.version)}
            </span>
          )}
        </p>
      </header>
      <ErrorNote error={loaded.error} />
      <nav class="tabs" aria-label={`Views of bank ${name}`}>
        {TABS.map(([one, title]) => (
          <a key={one} href={bankLink(name, one)} aria-current={one === tab ? "page" : undefined}>
            {title}
          </a>
        ))}
      </nav>
      {TIMED.includes(tab) && (
        <TimeBar bank={name} newest={info.version} at={chosen} setAt={setAt} />
      )}
      {tab === "ask" && <Ask {...looked} />}
      {tab === "facts" && <Facts {...looked} />}
      {tab === "map" && <FactsMap {...looked} />}
      {tab === "log" && <Log {...looked} />}
      {tab === "branches" && <Branches {...looked} />}
      {tab === "health" && <Health {...looked} />}
    </>
  );
}
