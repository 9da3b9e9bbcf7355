/** What is said aloud: results as notices that can be seen, answers for screen readers alone. */
import { useEffect, useState } from "preact/hooks";

const SHOWN_MS = 7000;

let show: (text: string) => void = () => undefined;
let speak: (text: string) => void = () => undefined;

/** Says what was done, in sight and aloud. */
export const notify = (text: string) => show(text);

/** Says aloud what is in sight already. */
export const announce = (text: string) => speak(text);

export function Notices() {
  const [shown, setShown] = useState("");
  const [spoken, setSpoken] = useState("");
  useEffect(() => {
    show = setShown;
    speak = setSpoken;
  }, []);
  useEffect(() => {
    const timer = setTimeout(() => setShown(""), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [shown]);
  return (
    <>
      <div class="notices" role="status" aria-live="polite">
        {shown && <p class="notice">{shown}</p>}
      </div>
      <div class="unseen" id="spoken" role="status" aria-live="polite">{spoken}</div>
    </>
  );
}
