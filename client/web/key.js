/** The key, where the server asks for one: kept for this tab only, and exchanged for a ticket at each connection. */

import { StarlingError } from "./starling.js";

const KEPT = "starling.key";

const field = () => /** @type {HTMLInputElement} */ (document.getElementById("key"));
let isNeeded = false;

/** The server asks for a key: shows the field. */
export function askForKey() {
  isNeeded = true;
  /** @type {HTMLElement} */ (document.getElementById("key-field")).hidden = false;
  try {
    field().value = sessionStorage.getItem(KEPT) ?? "";
  } catch {
    // Storage is switched off: the key has to be given again.
  }
}

/** For the session's option `ticket`; undefined where no key is asked for. */
export function ticketSource() {
  if (!isNeeded) return undefined;
  const key = field().value.trim();
  return () => fetchTicket(key);
}

/** @param {string} key */
async function fetchTicket(key) {
  // A header takes no other characters, and no key has any.
  if (!/^[!-~]+$/.test(key)) throw new StarlingError("refused", "the key is missing", { status: 401 });
  const response = await fetch("ticket", { headers: { Authorization: `Bearer ${key}` }, cache: "no-store" });
  if (response.status === 401) throw new StarlingError("refused", "the key is not valid", { status: 401 });
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  try {
    sessionStorage.setItem(KEPT, key);
  } catch {
    // As above.
  }
  return (await response.json()).ticket;
}
