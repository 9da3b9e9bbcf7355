/** Numbers and times for people. */
const NUMBER = new Intl.NumberFormat("en");
const AGO = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
const UNITS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1],
];

export const count = (value: number) => NUMBER.format(value);

export const plural = (value: number, noun: string) =>
  `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

export function bytes(value: number): string {
  const power = value ? Math.min(4, Math.floor(Math.log2(value) / 10)) : 0;
  const scaled = value / 1024 ** power;
  const digits = power && scaled < 10 ? 1 : 0;
  return `${scaled.toFixed(digits)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

/** "3 min. ago". */
export function ago(timeMs: number): string {
  const seconds = Math.max(0, Math.round((Date.now() - timeMs) / 1000));
  const [unit, size] = UNITS.find(([, length]) => seconds >= length) ?? UNITS[3];
  return AGO.format(-Math.floor(seconds / size), unit);
}

export const moment = (timeMs: number) => new Date(timeMs).toLocaleString("en-GB");

export const short = (digest: string) => digest.slice(0, 12);

/** An answer as it goes on from its prompt. */
export const continued = (text: string) => (/^[\s.,;:!?')]/.test(text) ? text : ` ${text}`);

export const newId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
