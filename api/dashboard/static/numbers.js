// Numbers as they are said, and as they come.

const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

// Four digits that matter, as the server has them: see `_number` in rendering.py.
export function said(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e-4 && size < 1e6) return value.toLocaleString("en", { maximumSignificantDigits: Math.max(digits, Math.ceil(Math.log10(size))) });
  const [mantissa, power] = value.toExponential(digits - 1).split("e");
  return `${Number(mantissa)} × 10${[...String(Number(power))].map((one) => RAISED[one]).join("")}`;
}

// float32 in base64, as the server codes many numbers.
export function decoded(text) {
  return new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}
