// Everything shown is a text that the server made; nothing of it is markup.
const SVG = "http://www.w3.org/2000/svg";

function table(id, rows, heads) {
  const made = rows.map((row, number) => {
    const line = document.createElement("tr");
    line.append(...row.map((text) => {
      const cell = document.createElement(heads && number === 0 ? "th" : "td");
      cell.textContent = text;
      if (/^[\d$-]/.test(heads && number === 0 && rows[1] ? rows[1][row.indexOf(text)] : text)) cell.className = "number";
      return cell;
    }));
    return line;
  });
  document.getElementById(id).replaceChildren(...(heads && rows.length < 2 ? [] : made));
}

function figure(limit) {
  const made = document.createElement("figure");
  const title = document.createElement("figcaption");
  title.textContent = `${limit.target}: ${limit.what} ${limit.now}${limit.of && ` of ${limit.of}`}`;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 320 80");
  svg.setAttribute("preserveAspectRatio", "none");
  const last = limit.line.length ? limit.line[limit.line.length - 1][0] : 0;
  const first = limit.line.length ? limit.line[0][0] : 0;
  const points = limit.line.map(([at, value]) =>
    `${(320 * (at - first)) / Math.max(1, last - first)},${79 - (78 * value) / Math.max(1e-9, limit.top)}`);
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.join(" "));
  svg.append(line);
  made.append(title, svg);
  return made;
}

function theme() {
  const chosen = localStorage.getItem("theme");
  document.documentElement.className = chosen === "dark" || chosen === "light" ? chosen : "";
}

async function look() {
  theme();
  if (!document.hidden && document.documentElement.clientWidth) {
    try {
      const now = await (await fetch("live.json")).json();
      document.getElementById("state").textContent = now.state;
      table("classes", now.classes, true);
      table("refusals", now.refusals, true);
      table("failures", now.failures, true);
      table("generator", now.generator, true);
      table("sums", now.sums, false);
      document.getElementById("limits").replaceChildren(...now.limits.map(figure));
    } catch {
      document.getElementById("state").textContent = "Locust does not answer; these are its last numbers.";
    }
  }
  setTimeout(look, 2000);
}

look();
