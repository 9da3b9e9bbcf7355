import { useState } from "preact/hooks";
import * as api from "./api";
import type { Looked } from "./bank";
import { newId, plural } from "./format";
import { useAction } from "./hooks";
import { notify } from "./notices";
import type { Merge } from "./types";
import { Button, Empty, ErrorNote, Field, Form, Panel, Version } from "./ui";

const POLICIES: [string, string][] = [
  ["fail", "Refuse the merge"],
  ["ours", "Keep this bank's side"],
  ["theirs", "Take the other's side"],
];

/** Applies to this bank what another of its family has changed since they parted. */
export function MergePanel({ info, banks, onEdit }: Looked) {
  const bank = info.config.bank;
  const others = banks.map(({ config }) => config.bank).filter((name) => name !== bank);
  const [source, setSource] = useState("");
  const [policy, setPolicy] = useState("fail");
  const [mergeId, setMergeId] = useState(newId);
  const [planned, setPlanned] = useState<Merge>();
  const choose = (set: (value: string) => void) => (event: { currentTarget: { value: string } }) => {
    set(event.currentTarget.value);
    setPlanned(undefined);
    setMergeId(newId());
  };
  const order = (dryRun: boolean) => ({ source, policy, merge_id: mergeId, dry_run: dryRun });
  const previewing = useAction(async () => setPlanned(await api.merge(bank, order(true))));
  const merging = useAction(async () => {
    const done = await api.merge(bank, order(false));
    notify(`Merged ${source}: wrote ${done.written}, forgot ${done.forgotten}.`);
    setPlanned(undefined);
    setMergeId(newId());
    onEdit();
  });
  if (!others.length) {
    return (
      <Panel title="Merge">
        <Empty>There is no other bank to merge from.</Empty>
      </Panel>
    );
  }
  return (
    <Panel title="Merge" note="Brings in what a bank of the same family has changed since they parted.">
      <Form onSubmit={previewing.run} label="Merge">
        <div class="options">
          <Field label="From bank">
            <select required value={source} onChange={choose(setSource)}>
              <option value="" disabled>Choose a bank</option>
              {others.map((name) => <option key={name} value={name}>{name}</option>)}
            </select>
          </Field>
          <Field label="Conflicts">
            <select value={policy} onChange={choose(setPolicy)}>
              {POLICIES.map(([name, text]) => <option key={name} value={name}>{text}</option>)}
            </select>
          </Field>
        </div>
        <ErrorNote error={previewing.error ?? merging.error} />
        {planned && <Plan planned={planned} />}
        <div class="buttons">
          <Button submit busy={previewing.busy} disabled={!source}>Preview</Button>
          <Button kind="main" busy={merging.busy} disabled={!source} onPress={merging.run}>
            Merge into {bank}
          </Button>
        </div>
      </Form>
    </Panel>
  );
}

function Plan({ planned }: { planned: Merge }) {
  return (
    <div role="status">
      <p>
        Would write {plural(planned.written, "fact")} and forget {planned.forgotten}, with{" "}
        {plural(planned.conflict_count, "conflict")}.
      </p>
      <ul class="rows" aria-label="Conflicts">
        {planned.conflicts.map((one) => (
          <li class="row" key={one.fact_id}>
            <p class="row-main row-meta">
              <code class="cut">{one.fact_id}</code>
              <span>here <Version value={one.target_version} /></span>
              <span>there <Version value={one.source_version} /></span>
            </p>
          </li>
        ))}
      </ul>
    </div>
  );
}
