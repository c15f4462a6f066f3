// Several draws of the image's latents from their posterior, how far they spread, and the band around the answer.

import { $, make } from "./dom.js";
import { doubtColour, fromBase64, gradient, limitOf, picture, toCanvas } from "./pixels.js";

export const DRAWS = 4;

export function showDraws(spec, answer, planes) {
  const tile = (canvas, label, ...more) => {
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
    canvas.style.aspectRatio = spec.aspect;
    return make("figure", {}, canvas, make("figcaption", {}, label, ...more));
  };
  const [height, width] = spec.size;
  const levels = (encoded, label, title) => {
    const whole = new Float32Array(fromBase64(encoded).buffer);
    const [values, limit] = [planes.flat(whole), limitOf(whole)];
    const bar = make("i", { class: "colour-bar" });
    bar.style.backgroundImage = gradient((value) => doubtColour(value, 1), 0, 1);
    return tile(
      toCanvas(width, height, (i) => doubtColour(values[i], limit)),
      label,
      make("span", { class: "scale", title }, "0", bar, `${limit}`),
    );
  };
  const band = "half-width in grey levels: of the pixels that truly change, 90 % lie within";
  $("draws").replaceChildren(
    ...answer.draws.map((draw, k) => {
      const shown = planes.flat(fromBase64(draw), spec.channels);
      return tile(picture(spec, shown), `Draw ${k + 1}`);
    }),
    levels(answer.spread, "Spread (SD)", "standard deviation in grey levels"),
    ...(answer.band ? [levels(answer.band, "Band (90 %)", band)] : []),
  );
}
