/** A question, answered with the bank's memory and without it, side by side. */
import { useState } from "preact/hooks";
import * as api from "./api";
import { Answer } from "./answer";
import type { Looked } from "./bank";
import { useLoad } from "./hooks";
import { Button, Empty, Field, Form } from "./ui";
import { WriteDialog } from "./write";

const SUGGESTED = 4;

interface Decoding {
  max_tokens?: number;
  temperature?: number;
  seed?: number;
}

export function Ask({ info, at, onEdit }: Looked) {
  const bank = info.config.bank;
  const [prompt, setPrompt] = useState("");
  const [decoding, setDecoding] = useState<Decoding>({});
  const [asked, setAsked] = useState<api.Question>();
  const [writing, setWriting] = useState(false);
  const submit = () => {
    if (prompt.trim()) setAsked({ prompt, ...decoding });
  };
  const sent = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  };
  return (
    <>
      <Form class="ask" onSubmit={submit} label="Ask">
        <Field label="Prompt" hint="The model goes on from it. Enter asks.">
          <textarea
            rows={2}
            value={prompt}
            onInput={(event) => setPrompt(event.currentTarget.value)}
            onKeyDown={sent}
          />
        </Field>
        <div class="buttons">
          <Button kind="main" submit disabled={!prompt.trim()}>Ask</Button>
          <Button onPress={() => setWriting(true)}>Write a fact</Button>
          <DecodingOptions decoding={decoding} onChange={setDecoding} />
        </div>
      </Form>
      {asked ? (
        <div class="answers">
          <Answer bank={bank} question={asked} at={at} onWrite={() => setWriting(true)} />
          <Answer bank={bank} question={asked} plain />
        </div>
      ) : (
        <Suggestions bank={bank} version={info.version} at={at} onChoose={setPrompt} />
      )}
      {writing && (
        <WriteDialog
          bank={bank}
          prompt={prompt}
          onClose={() => setWriting(false)}
          onDone={() => {
            setWriting(false);
            onEdit();
            if (asked) setAsked({ ...asked });
          }}
        />
      )}
    </>
  );
}

const OPTIONS: { name: keyof Decoding; label: string; usual: string; max?: number; step: number }[] =
  [
    { name: "max_tokens", label: "Most tokens", usual: "32", max: 128, step: 1 },
    { name: "temperature", label: "Temperature", usual: "0, greedy", max: 10, step: 0.1 },
    { name: "seed", label: "Seed", usual: "0", step: 1 },
  ];

function DecodingOptions(props: { decoding: Decoding; onChange: (to: Decoding) => void }) {
  const set = (name: keyof Decoding, text: string) =>
    props.onChange({ ...props.decoding, [name]: text === "" ? undefined : Number(text) });
  return (
    <details>
      <summary>Decoding</summary>
      <div class="options">
        {OPTIONS.map(({ name, label, usual, max, step }) => (
          <Field key={name} label={label}>
            <input
              type="number"
              min={0}
              max={max}
              step={step}
              placeholder={usual}
              value={props.decoding[name]}
              onInput={(event) => set(name, event.currentTarget.value)}
            />
          </Field>
        ))}
      </div>
    </details>
  );
}

interface SuggestionsProps {
  bank: string;
  version: number;
  at: number | undefined;
  onChoose: (prompt: string) => void;
}

/** Prompts of facts, to begin with. */
function Suggestions({ bank, version, at, onChoose }: SuggestionsProps) {
  const { data } = useLoad(
    (signal) => api.facts(bank, { at_version: at }, signal),
    [bank, version, at],
  );
  if (!data) return null;
  if (!data.facts.length) {
    return <Empty>Nothing is written here yet. Write a fact, then ask about it.</Empty>;
  }
  return (
    <div class="suggestions">
      <h2>Written here</h2>
      <ul>
        {data.facts.slice(0, SUGGESTED).map((fact) => (
          <li key={fact.fact_id}>
            <button type="button" class="suggestion" onClick={() => onChoose(fact.prompt)}>
              {fact.prompt} …
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
