// A .snac file in the fragment of a link, which browsers do not send to any server.

const MARK = "#snac=";
export const MOST_BYTES = 6000; // of a file; longer links are cut by messengers

export function linkOf(bytes, page = location.href) {
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  const link = new URL(page);
  link.hash = MARK + text.replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  return link.href;
}

// The file's bytes, or null if the link has none.
export function bytesOf(page = location.href) {
  const { hash } = new URL(page);
  if (!hash.startsWith(MARK)) return null;
  try {
    const text = atob(hash.slice(MARK.length).replace(/-/g, "+").replace(/_/g, "/"));
    return Uint8Array.from(text, (character) => character.charCodeAt(0));
  } catch {
    throw new Error("expected a link with sound, got a damaged one");
  }
}
