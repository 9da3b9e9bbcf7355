/** Writing a fact, or another text in the place of one. */
import { useState } from "preact/hooks";
import * as api from "./api";
import { newId } from "./format";
import { useAction } from "./hooks";
import { notify } from "./notices";
import type { Fact } from "./types";
import { Button, Dialog, ErrorNote, Field, Form } from "./ui";

interface WriteDialogProps {
  bank: string;
  prompt?: string;
  /** The fact whose text is replaced. */
  fact?: Fact;
  onClose: () => void;
  onDone: () => void;
}

export function WriteDialog({ bank, prompt = "", fact, onClose, onDone }: WriteDialogProps) {
  const [draft, setDraft] = useState({
    prompt: fact?.prompt ?? prompt,
    answer: fact?.answer ?? "",
    rephrasings: fact?.rephrasings.join("\n") ?? "",
    fact_id: fact?.fact_id ?? "",
  });
  // The same on every try of one text, so that a repeated call is one event.
  const [eventId, setEventId] = useState(newId);
  const set = (name: keyof typeof draft) => (event: { currentTarget: { value: string } }) => {
    setDraft({ ...draft, [name]: event.currentTarget.value });
    setEventId(newId());
  };
  const writing = useAction(async () => {
    const edited = await api.write(bank, {
      prompt: draft.prompt,
      answer: draft.answer,
      rephrasings: draft.rephrasings.split("\n").filter((line) => line.trim()),
      ...(draft.fact_id ? { fact_id: draft.fact_id } : {}),
      ...(fact ? { expected_version: fact.version } : {}),
      event_id: eventId,
    });
    notify(`Wrote ${edited.fact_id} at version ${edited.version}.`);
    onDone();
  });
  const complete = draft.prompt.trim() && draft.answer.trim();
  return (
    <Dialog title={fact ? "Replace a fact" : "Write a fact"} onClose={onClose}>
      <Form onSubmit={writing.run}>
        <Field label="Prompt">
          <textarea rows={2} required autofocus={!draft.prompt} value={draft.prompt} onInput={set("prompt")} />
        </Field>
        <Field label="Answer" hint="How the prompt goes on.">
          <input required autofocus={Boolean(draft.prompt)} value={draft.answer} onInput={set("answer")} />
        </Field>
        <Field label="Rephrasings" hint="The prompt in other words, one a line; may be left out.">
          <textarea rows={2} value={draft.rephrasings} onInput={set("rephrasings")} />
        </Field>
        {!fact && (
          <Field label="Fact id" hint="Left out, it is made of the prompt.">
            <input value={draft.fact_id} spellcheck={false} onInput={set("fact_id")} />
          </Field>
        )}
        <ErrorNote error={writing.error} />
        <div class="buttons">
          <Button kind="main" submit busy={writing.busy} disabled={!complete || writing.busy}>
            {fact ? "Replace" : "Write"}
          </Button>
          <Button onPress={onClose}>Cancel</Button>
        </div>
      </Form>
    </Dialog>
  );
}
