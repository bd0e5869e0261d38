"use strict";
// Draws each picture in its place, as SVG, by an interpreter: the page's policy allows no eval.
const pictures = JSON.parse(document.getElementById("pictures").textContent);
const options = { actions: false, ast: true, renderer: "svg", tooltip: { theme: "custom" } };
const column = (values) =>
  Array.isArray(values) ? values : values.places.map((place) => values.words[place]);
// Data comes by columns, which are small; charts take rows.
const rows = ({ n, columns }) => {
  const whole = Object.entries(columns).map(([key, values]) => [key, column(values)]);
  return Array.from({ length: n }, (_, k) =>
    Object.fromEntries(whole.map(([key, values]) => [key, values[k]])),
  );
};
for (const spec of Object.values(pictures)) {
  for (const name of Object.keys(spec.datasets)) spec.datasets[name] = rows(spec.datasets[name]);
}
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
// What is folded has no width until it is opened.
const folded = [...document.querySelectorAll("details")];
for (const part of folded)
  part.addEventListener("toggle", () => dispatchEvent(new Event("resize")));
// Paper cannot be opened, and has another width than the screen.
let closed = [];
addEventListener("beforeprint", () => {
  closed = folded.filter((part) => !part.open);
  for (const part of closed) part.open = true;
  dispatchEvent(new Event("resize"));
});
addEventListener("afterprint", () => {
  for (const part of closed) part.open = false;
});
