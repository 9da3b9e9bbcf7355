import { useState } from "preact/hooks";
import * as api from "./api";
import type { Looked } from "./bank";
import { useAction } from "./hooks";
import { notify } from "./notices";
import { bankLink, goTo } from "./route";
import { Button, ErrorNote, Field, Form, Panel } from "./ui";

/** Makes a bank that shares this one's history up to a version. */
export function ForkPanel({ info, at, onEdit }: Looked) {
  const bank = info.config.bank;
  const [name, setName] = useState("");
  const [version, setVersion] = useState(at ? String(at) : "");
  const forking = useAction(async () => {
    await api.fork(bank, name.trim(), version ? Number(version) : undefined);
    notify(`Forked ${bank} as ${name.trim()}.`);
    onEdit();
    goTo(bankLink(name.trim()));
  });
  return (
    <Panel title="Fork" note="A new bank with this one's history. It costs no copy of the facts.">
      <Form onSubmit={forking.run} label="Fork">
        <div class="options">
          <Field label="Name of the fork">
            <input
              required
              spellcheck={false}
              value={name}
              onInput={(event) => setName(event.currentTarget.value)}
            />
          </Field>
          <Field label="Up to version">
            <input
              type="number"
              min={1}
              max={info.version}
              placeholder="newest"
              value={version}
              onInput={(event) => setVersion(event.currentTarget.value)}
            />
          </Field>
        </div>
        <ErrorNote error={forking.error} />
        <div class="buttons">
          <Button kind="main" submit busy={forking.busy} disabled={!name.trim()}>Fork</Button>
        </div>
      </Form>
    </Panel>
  );
}
