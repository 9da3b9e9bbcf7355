import { useState } from "preact/hooks";
import * as api from "./api";
import type { Looked } from "./bank";
import { count, plural } from "./format";
import { useAction } from "./hooks";
import type { Diff, Fact, FactChange } from "./types";
import { Badge, Button, Empty, ErrorNote, Field, Form, Panel } from "./ui";

/** What differs between two versions, of this bank or of two. */
export function DiffPanel({ info, banks }: Looked) {
  const bank = info.config.bank;
  const [from, setFrom] = useState(String(info.origin?.version ?? Math.max(1, info.version - 1)));
  const [to, setTo] = useState("");
  const [other, setOther] = useState("");
  const [found, setFound] = useState<Diff>();
  const compare = async (token: string) => {
    const page = await api.diff(bank, {
      from_version: Number(from),
      to_version: to ? Number(to) : undefined,
      to_bank: other,
      page_token: token,
    });
    setFound(token ? { ...page, changes: [...found!.changes, ...page.changes] } : page);
  };
  const comparing = useAction(() => compare(""));
  const more = useAction(() => compare(found!.next_after));
  return (
    <Panel title="Differences">
      <Form onSubmit={comparing.run} label="Differences">
        <div class="options">
          <Field label="From version">
            <input type="number" min={0} max={info.version} required value={from}
              onInput={(event) => setFrom(event.currentTarget.value)} />
          </Field>
          <Field label="To version">
            <input type="number" min={1} placeholder="newest" value={to}
              onInput={(event) => setTo(event.currentTarget.value)} />
          </Field>
          <Field label="Of bank">
            <select value={other} onChange={(event) => setOther(event.currentTarget.value)}>
              <option value="">this one</option>
              {banks.map(({ config }) => config.bank).filter((name) => name !== bank).map((name) => (
                <option key={name} value={name}>{name}</option>
              ))}
            </select>
          </Field>
        </div>
        <div class="buttons">
          <Button kind="main" submit busy={comparing.busy}>Compare</Button>
        </div>
      </Form>
      <ErrorNote error={comparing.error ?? more.error} />
      {found && <Changes found={found} />}
      {found?.next_after && <Button busy={more.busy} onPress={more.run}>More</Button>}
    </Panel>
  );
}

function Changes({ found }: { found: Diff }) {
  return (
    <>
      <p role="status">
        From version {count(found.from_version)} to {count(found.to_version)}:{" "}
        {count(found.added)} added, {count(found.changed)} changed, {count(found.removed)} removed.
      </p>
      {!found.changes.length && <Empty>The same facts, {plural(0, "difference")}.</Empty>}
      <ul class="rows" aria-label="Changes">
        {found.changes.map((change) => <ChangeRow key={change.fact_id} change={change} />)}
      </ul>
    </>
  );
}

const TONES: Record<string, "in" | "out" | "bad"> = { added: "in", changed: "out", removed: "bad" };

function ChangeRow({ change }: { change: FactChange }) {
  const kind = change.kind.toLowerCase();
  return (
    <li class="row">
      <div class="row-main">
        <p class="row-meta">
          <Badge tone={TONES[kind]}>{kind}</Badge>
          <code class="cut">{change.fact_id}</code>
        </p>
        {change.before && <p class="row-text"><del><Text fact={change.before} /></del></p>}
        {change.after && <p class="row-text"><ins><Text fact={change.after} /></ins></p>}
      </div>
    </li>
  );
}

const Text = ({ fact }: { fact: Fact }) => (
  <>
    {fact.prompt} <strong>{fact.answer}</strong>
  </>
);
