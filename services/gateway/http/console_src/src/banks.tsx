/** All banks: what they hold, how full they are, and a new one. */
import { useState } from "preact/hooks";
import * as api from "./api";
import { bytes, count, plural } from "./format";
import { Fill } from "./health";
import { type Loaded, useAction } from "./hooks";
import { notify } from "./notices";
import { bankLink, goTo } from "./route";
import type { BankInfo } from "./types";
import { Badge, Button, Dialog, Empty, ErrorNote, Field, Form } from "./ui";

export function Banks({ listed }: { listed: Loaded<BankInfo[]> }) {
  const [making, setMaking] = useState(false);
  return (
    <>
      <header class="page-head">
        <h1>Banks</h1>
        <Button kind="main" onPress={() => setMaking(true)}>New bank</Button>
      </header>
      <ErrorNote error={listed.error} />
      {listed.data && !listed.data.length && (
        <Empty>There is no bank yet. The first fact makes the bank “default”.</Empty>
      )}
      <ul class="cards" aria-label="Banks">
        {listed.data?.map((info) => (
          <BankCard key={info.config.bank} info={info} />
        ))}
      </ul>
      {making && <NewBank onClose={() => setMaking(false)} onDone={listed.reload} />}
    </>
  );
}

function BankCard({ info }: { info: BankInfo }) {
  const { config } = info;
  return (
    <li class="card">
      <h2>
        <a class="cut" href={bankLink(config.bank)}>{config.bank}</a>
        {info.stopped ? <Badge tone="bad">Stopped</Badge> : <Badge>{config.addressing}</Badge>}
      </h2>
      {info.stopped ? <p class="told">{info.stopped}</p> : <Numbers info={info} />}
    </li>
  );
}

function Numbers({ info }: { info: BankInfo }) {
  return (
    <>
      <p class="card-numbers">
        <span><strong class="number">{count(info.facts)}</strong> {info.facts === 1 ? "fact" : "facts"}</span>
        <span><strong class="number">{count(info.version)}</strong> events</span>
        <span><strong class="number">{bytes(info.state_bytes)}</strong> held</span>
      </p>
      {info.config.slots > 0 && <Fill fill={info.fill} />}
      <p class="faint">
        {info.origin && `Fork of ${info.origin.bank} at version ${count(info.origin.version)}. `}
        {info.erase_count > 0 && `${plural(info.erase_count, "fact")} erased in its family.`}
      </p>
    </>
  );
}

function NewBank({ onClose, onDone }: { onClose: () => void; onDone: () => void }) {
  const [name, setName] = useState("");
  const [addressing, setAddressing] = useState("slots");
  const [slots, setSlots] = useState("512");
  const making = useAction(async () => {
    await api.makeBank(name.trim(), addressing, Number(slots));
    notify(`Made bank ${name.trim()}.`);
    onDone();
    goTo(bankLink(name.trim()));
  });
  return (
    <Dialog title="New bank" onClose={onClose}>
      <Form onSubmit={making.run}>
        <Field label="Name" hint="a-z, 0-9, dot, underscore and dash">
          <input
            autofocus
            required
            spellcheck={false}
            value={name}
            onInput={(event) => setName(event.currentTarget.value)}
          />
        </Field>
        <Field label="Addressing" hint="Slots: a row for each fact. The others share K slots.">
          <select value={addressing} onChange={(event) => setAddressing(event.currentTarget.value)}>
            <option value="slots">slots</option>
            <option value="pinv">pinv</option>
            <option value="gaussian">gaussian</option>
          </select>
        </Field>
        {addressing !== "slots" && (
          <Field label="K, slots">
            <input
              type="number"
              min={1}
              max={4096}
              value={slots}
              onInput={(event) => setSlots(event.currentTarget.value)}
            />
          </Field>
        )}
        <ErrorNote error={making.error} />
        <div class="buttons">
          <Button kind="main" submit busy={making.busy} disabled={!name.trim()}>Make the bank</Button>
          <Button onPress={onClose}>Cancel</Button>
        </div>
      </Form>
    </Dialog>
  );
}
