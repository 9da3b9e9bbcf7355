/** How a bank is: what it holds, its digest, and what proves that it is sound. */
import { useState } from "preact/hooks";
import * as api from "./api";
import type { Looked } from "./bank";
import { bytes, count, plural } from "./format";
import { useAction, useLoad } from "./hooks";
import { notify } from "./notices";
import { ReceiptView } from "./receipt";
import { goTo } from "./route";
import type { BankInfo, Checkpoint, Replay } from "./types";
import { Badge, Button, Dialog, ErrorNote, Field, Form, Hash, Meter, Pairs, Panel } from "./ui";

export function Health({ info, at, onEdit }: Looked) {
  return (
    <div class="panels">
      <Size info={info} />
      <Soundness info={info} at={at} />
      <Receipts bank={info.config.bank} />
      <Deletion bank={info.config.bank} onEdit={onEdit} />
    </div>
  );
}

function Size({ info }: { info: BankInfo }) {
  const { config } = info;
  return (
    <Panel title="Size">
      <Pairs
        rows={[
          ["Facts", count(info.facts)],
          ["Version", count(info.version)],
          ["Held in memory", bytes(info.state_bytes)],
          ["Facts erased in its family", count(info.erase_count)],
          ["Addressing", config.slots ? `${config.addressing}, K = ${config.slots}` : config.addressing],
        ]}
      />
      {config.slots > 0 ? <Fill fill={info.fill} /> : (
        <p class="faint">A slots bank grows with its facts: it has no fill.</p>
      )}
    </Panel>
  );
}

const CROWDED = 0.25;

/** N / K of a bank with a fixed number of slots. */
export function Fill({ fill }: { fill: number }) {
  return (
    <div class="score">
      <span>Fill</span>
      <span class="number">{(100 * fill).toFixed(1)} %</span>
      <Meter label="Fill" value={fill} max={1} tone={fill > CROWDED ? "out" : "in"} />
    </div>
  );
}

function Soundness({ info, at }: { info: BankInfo; at: number | undefined }) {
  const bank = info.config.bank;
  const digest = useLoad((signal) => api.digest(bank, at, signal), [bank, at, info.version]);
  const [replayed, setReplayed] = useState<Replay>();
  const [saved, setSaved] = useState<Checkpoint>();
  const replaying = useAction(async () => setReplayed(await api.replay(bank)));
  const saving = useAction(async () => setSaved(await api.checkpoint(bank)));
  return (
    <Panel title="Soundness">
      {digest.data && (
        <Pairs
          rows={[
            [`Digest at version ${count(digest.data.version)}`, <Hash value={digest.data.digest} />],
            ["Facts in it", count(digest.data.facts)],
            ["Configuration", <Hash value={info.config.config_digest} />],
            ["Encoder", <Hash value={info.config.encoder_digest} />],
          ]}
        />
      )}
      <ErrorNote error={digest.error ?? replaying.error ?? saving.error} />
      <div class="buttons">
        <Button busy={replaying.busy} onPress={replaying.run}>Replay and compare</Button>
        <Button busy={saving.busy} onPress={saving.run}>Save a checkpoint</Button>
      </div>
      <div role="status">
        {replaying.busy && <p class="faint">The log is folded from nothing…</p>}
        {replayed && (
          <p>
            {replayed.matches ? <Badge tone="in">Equal</Badge> : <Badge tone="bad">Different</Badge>}{" "}
            {plural(replayed.events, "event")} replayed in {replayed.seconds.toFixed(2)} s:{" "}
            <Hash value={replayed.digest} />
          </p>
        )}
        {saved && <p>Saved version {count(saved.version)}, {bytes(saved.bytes)}.</p>}
      </div>
    </Panel>
  );
}

/** The receipt of an erasure, by the id that it was given. */
function Receipts({ bank }: { bank: string }) {
  const [typed, setTyped] = useState("");
  const [shown, setShown] = useState("");
  return (
    <Panel title="Receipts">
      <Form onSubmit={() => setShown(typed.trim())} label="Receipts">
        <Field label="Event id of an erasure">
          <input
            spellcheck={false}
            value={typed}
            onInput={(event) => setTyped(event.currentTarget.value)}
          />
        </Field>
        <div class="buttons">
          <Button submit disabled={!typed.trim()}>Show the receipt</Button>
        </div>
      </Form>
      {shown && <ReceiptView key={shown} bank={bank} eventId={shown} />}
    </Panel>
  );
}

function Deletion({ bank, onEdit }: { bank: string; onEdit: () => void }) {
  const [asking, setAsking] = useState(false);
  const [typed, setTyped] = useState("");
  const deleting = useAction(async () => {
    await api.deleteBank(bank);
    notify(`Deleted ${bank}.`);
    onEdit();
    goTo("#/");
  });
  return (
    <Panel title="Delete" note="Removes the bank with all that it holds. Deleting is not erasing: where that matters, erase its facts first.">
      <div class="buttons">
        <Button kind="danger" onPress={() => setAsking(true)}>Delete this bank</Button>
      </div>
      {asking && (
        <Dialog title={`Delete ${bank}?`} onClose={() => setAsking(false)}>
          <Form onSubmit={() => typed === bank && deleting.run()}>
            <Field label={`Type ${bank} to delete it`}>
              <input
                spellcheck={false}
                value={typed}
                onInput={(event) => setTyped(event.currentTarget.value)}
              />
            </Field>
            <ErrorNote error={deleting.error} />
            <div class="buttons">
              <Button kind="danger" submit busy={deleting.busy} disabled={typed !== bank}>
                Delete for good
              </Button>
              <Button onPress={() => setAsking(false)}>Cancel</Button>
            </div>
          </Form>
        </Dialog>
      )}
    </Panel>
  );
}
