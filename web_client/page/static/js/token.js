// The visitor's token, where the server asks for one. It stays in this tab, and goes out as a header.
import { $ } from "./dom.js";

const KEY = "token";

/** The header that carries the token; empty where none is wanted. */
export function authorization() {
  const token = $("token")?.value.trim();
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Keep what the visitor types for as long as the tab is open; changed() is called when it is complete. */
export function rememberToken(changed) {
  const field = $("token");
  if (!field) return;
  field.value = sessionStorage.getItem(KEY) ?? "";
  field.addEventListener("change", () => {
    sessionStorage.setItem(KEY, field.value.trim());
    changed();
  });
}
