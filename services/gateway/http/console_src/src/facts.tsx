/** The facts of a bank: search, pages, and what can be done with one. */
import { useEffect, useState } from "preact/hooks";
import * as api from "./api";
import type { Looked } from "./bank";
import { EraseDialog } from "./erase";
import { count, plural } from "./format";
import { ForgetDialog } from "./forget";
import { History } from "./history";
import { useLoad, useRested } from "./hooks";
import { usePages } from "./paging";
import type { Fact } from "./types";
import { Button, Empty, ErrorNote, Field, Pager, Version } from "./ui";
import { WriteDialog } from "./write";

const REST_MS = 300;

type Doing = { what: "replace" | "history" | "forget" | "erase"; fact: Fact } | { what: "write" };

export function Facts({ info, at, setAt, onEdit }: Looked) {
  const bank = info.config.bank;
  const [typed, setTyped] = useState("");
  const search = useRested(typed.trim(), REST_MS);
  const pages = usePages();
  const [doing, setDoing] = useState<Doing>();
  useEffect(pages.restart, [search, at]);
  const page = useLoad(
    (signal) => api.facts(bank, { search, page_token: pages.token, at_version: at }, signal),
    [bank, search, pages.token, at, info.version],
  );
  const done = () => {
    setDoing(undefined);
    page.reload();
    onEdit();
  };
  const close = () => setDoing(undefined);
  return (
    <>
      <div class="toolbar">
        <Field label="Search">
          <input
            type="search"
            placeholder="prompt, answer or fact id"
            value={typed}
            onInput={(event) => setTyped(event.currentTarget.value)}
          />
        </Field>
        <Button kind="main" onPress={() => setDoing({ what: "write" })}>Write a fact</Button>
      </div>
      <ErrorNote error={page.error} />
      {page.data && !page.data.facts.length && (
        <Empty>
          {search ? `Nothing matches “${search}”.` : "No fact is live at this version."}
        </Empty>
      )}
      <ul class="rows" aria-label="Facts" aria-busy={page.busy}>
        {page.data?.facts.map((fact) => (
          <FactRow key={fact.fact_id} fact={fact} onDo={setDoing} />
        ))}
      </ul>
      {page.data && (pages.number > 1 || page.data.next_after) && (
        <Pager
          label="Pages of facts"
          hasBefore={pages.number > 1}
          hasNext={Boolean(page.data.next_after)}
          onBefore={pages.before}
          onNext={() => pages.next(page.data!.next_after)}
        >
          Page {count(pages.number)}
          {!search && ` of ${count(Math.ceil(page.data.total / api.FACTS_PAGE))}`}
          <span class="wide">, {plural(page.data.total, "fact")} at version {count(page.data.version)}</span>
        </Pager>
      )}
      {doing?.what === "write" && <WriteDialog bank={bank} onClose={close} onDone={done} />}
      {doing?.what === "replace" && (
        <WriteDialog bank={bank} fact={doing.fact} onClose={close} onDone={done} />
      )}
      {doing?.what === "history" && (
        <History bank={bank} fact={doing.fact} onClose={close} onChoose={setAt} />
      )}
      {doing?.what === "forget" && (
        <ForgetDialog bank={bank} fact={doing.fact} onClose={close} onDone={done} />
      )}
      {doing?.what === "erase" && (
        <EraseDialog bank={bank} fact={doing.fact} onClose={close} onErased={onEdit} />
      )}
    </>
  );
}

function FactRow({ fact, onDo }: { fact: Fact; onDo: (doing: Doing) => void }) {
  const actions: [Exclude<Doing["what"], "write">, string][] = [
    ["replace", "Replace"], ["history", "History"], ["forget", "Forget"], ["erase", "Erase"],
  ];
  return (
    <li class="row">
      <div class="row-main">
        <p class="row-text">
          {fact.prompt} <strong>{fact.answer}</strong>
        </p>
        <p class="row-meta">
          <code class="cut">{fact.fact_id}</code>
          <Version value={fact.version} />
          {fact.rephrasings.length > 0 && (
            <span title={fact.rephrasings.join("\n")}>
              {plural(fact.rephrasings.length, "rephrasing")}
            </span>
          )}
        </p>
      </div>
      <div class="row-actions">
        {actions.map(([what, title]) => (
          <Button
            key={what}
            kind="quiet"
            label={`${title}: ${fact.prompt}`}
            onPress={() => onDo({ what, fact })}
          >
            {title}
          </Button>
        ))}
      </div>
    </li>
  );
}
