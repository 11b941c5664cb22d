// Runs before the program is asked for pictures: how much room there is for them, in pixels of the screen.
(view, room) => {
  const place = document.querySelector("#pair") || document.body;
  const scale = window.devicePixelRatio || 1;
  document.documentElement.style.setProperty("--dot", 1 / scale);
  const width = Math.floor((place.clientWidth - 2) * scale), height = Math.floor(window.innerHeight * 0.7 * scale);
  return [view, `${width}x${height}`];
}
