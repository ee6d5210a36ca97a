// Caches the page and its files, so that it works without a network after the first load. assemble.py writes two constants
// above: VERSION, which changes with any file, and FILES, the names of the cached ones.

const NAME = `opensnac-${VERSION}`;

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(NAME)
      .then((cache) => cache.addAll(["./", ...FILES]))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  const old = (name) => name.startsWith("opensnac-") && name !== NAME;
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(names.filter(old).map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET") event.respondWith(kept(event.request));
});

// From the cache, else from the network and then cached: files for some browsers only are fetched on demand.
async function kept(request) {
  const cache = await caches.open(NAME);
  const known = await cache.match(request, { ignoreSearch: true });
  if (known) return known;
  const response = await fetch(request);
  if (response.ok && new URL(request.url).origin === location.origin) await cache.put(request, response.clone());
  return response;
}
