import * as api from "./api";
import { useAction } from "./hooks";
import { notify } from "./notices";
import type { Fact } from "./types";
import { Button, Dialog, ErrorNote } from "./ui";

interface ForgetDialogProps {
  bank: string;
  fact: Fact;
  onClose: () => void;
  onDone: () => void;
}

/** Asks once more, then forgets. */
export function ForgetDialog({ bank, fact, onClose, onDone }: ForgetDialogProps) {
  const forgetting = useAction(async () => {
    const edited = await api.forget(bank, fact.fact_id);
    notify(`Forgot ${edited.fact_id} at version ${edited.version}.`);
    onDone();
  });
  return (
    <Dialog title="Forget this fact?" onClose={onClose}>
      <blockquote>
        {fact.prompt} <strong>{fact.answer}</strong>
      </blockquote>
      <p>
        Its contribution is removed exactly. Past versions keep it, and it can be written again.
        To destroy its bytes everywhere, erase it.
      </p>
      <ErrorNote error={forgetting.error} />
      <div class="buttons">
        <Button kind="main" busy={forgetting.busy} onPress={forgetting.run}>Forget</Button>
        <Button onPress={onClose}>Cancel</Button>
      </div>
    </Dialog>
  );
}
