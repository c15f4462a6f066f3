// Several draws of the image's latents from their posterior, and how far they spread.

import { $, make } from "./dom.js";
import { doubtColour, fromBase64, gradient, limitOf, picture, toCanvas } from "./pixels.js";

export const DRAWS = 5;

export function showDraws(spec, answer) {
  const tile = (canvas, label, ...more) => {
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
    canvas.style.aspectRatio = spec.aspect;
    return make("figure", {}, canvas, make("figcaption", {}, label, ...more));
  };
  const spread = new Float32Array(fromBase64(answer.spread).buffer);
  const limit = limitOf(spread);
  const [height, width] = spec.size;
  const bar = make("i", { class: "colour-bar" });
  bar.style.backgroundImage = gradient((value) => doubtColour(value, 1), 0, 1);
  $("draws").replaceChildren(
    ...answer.draws.map((draw, k) => tile(picture(spec, fromBase64(draw)), `Draw ${k + 1}`)),
    tile(
      toCanvas(width, height, (i) => doubtColour(spread[i], limit)),
      "Spread (SD)",
      make("span", { class: "scale", title: "standard deviation in grey levels" }, "0", bar, `${limit}`),
    ),
  );
}
