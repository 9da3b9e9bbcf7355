/** The API key of this tab. */
import { useEffect, useState } from "preact/hooks";
import { apiKey } from "./http";
import { notify } from "./notices";
import { Button, Dialog, Field, Form } from "./ui";

let open: () => void = () => undefined;

export const openKeys = () => open();

/** The button in the header with its dialog; `onChange` is told when the key is another one. */
export function Keys({ onChange }: { onChange: () => void }) {
  const [shown, setShown] = useState(false);
  const [typed, setTyped] = useState("");
  useEffect(() => {
    open = () => setShown(true);
  }, []);
  const use = (key: string) => {
    apiKey.set(key.trim());
    setTyped("");
    setShown(false);
    notify(key ? "The API key is used from now on." : "The API key is forgotten.");
    onChange();
  };
  return (
    <>
      <Button kind="quiet" onPress={() => setShown(true)}>
        {apiKey.get() ? "API key set" : "API key"}
      </Button>
      {shown && (
        <Dialog title="API key" onClose={() => setShown(false)}>
          <Form onSubmit={() => use(typed)}>
            <Field label="Key" hint="Kept in this tab until it is closed, and sent as Bearer.">
              <input
                autofocus
                type="password"
                autocomplete="off"
                spellcheck={false}
                placeholder="lk_…"
                value={typed}
                onInput={(event) => setTyped(event.currentTarget.value)}
              />
            </Field>
            <div class="buttons">
              <Button kind="main" submit disabled={!typed.trim()}>Use this key</Button>
              {apiKey.get() && <Button onPress={() => use("")}>Forget the key</Button>}
            </div>
          </Form>
        </Dialog>
      )}
    </>
  );
}
