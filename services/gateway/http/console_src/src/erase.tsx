/** Erasing a fact, and the receipt that proves it. */
import { useState } from "preact/hooks";
import * as api from "./api";
import { newId } from "./format";
import { useAction } from "./hooks";
import { ReceiptView } from "./receipt";
import type { Fact } from "./types";
import { Button, Dialog, ErrorNote } from "./ui";

interface EraseDialogProps {
  bank: string;
  fact: Fact;
  onClose: () => void;
  onErased: () => void;
}

export function EraseDialog({ bank, fact, onClose, onErased }: EraseDialogProps) {
  const [eventId] = useState(newId);
  const [begun, setBegun] = useState(false);
  const erasing = useAction(async () => {
    await api.erase(bank, [fact.fact_id], eventId);
    setBegun(true);
    onErased();
  });
  if (begun) {
    return (
      <Dialog title="Receipt of the erasure" onClose={onClose}>
        <ReceiptView bank={bank} eventId={eventId} />
      </Dialog>
    );
  }
  return (
    <Dialog title="Erase this fact?" onClose={onClose}>
      <blockquote>
        {fact.prompt} <strong>{fact.answer}</strong>
      </blockquote>
      <p>
        Its text and vectors are destroyed in this bank and all its forks: log, checkpoints, queues
        and files. No past version has it any more, and its id is retired. This cannot be undone.
      </p>
      <ErrorNote error={erasing.error} />
      <div class="buttons">
        <Button kind="danger" busy={erasing.busy} onPress={erasing.run}>Erase for good</Button>
        <Button onPress={onClose}>Cancel</Button>
      </div>
    </Dialog>
  );
}
