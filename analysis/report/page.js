"use strict";
// Draws each picture in its place, as SVG, by an interpreter: the page's policy allows no eval.
const pictures = JSON.parse(document.getElementById("pictures").textContent);
const options = { actions: false, ast: true, renderer: "svg", tooltip: { theme: "custom" } };
const drawn = Object.entries(pictures).map(([id, spec]) => {
  const place = document.getElementById(id);
  return vegaEmbed(place, spec, options).then(
    () => place.classList.add("drawn"),
    (error) => {
      place.textContent = `This chart could not be drawn: ${error}`;
      console.error(error);
    },
  );
});
Promise.all(drawn).then(() => document.body.classList.add("drawn"));
// A chart is as wide as its place; paper has another width than the screen.
addEventListener("beforeprint", () => dispatchEvent(new Event("resize")));
