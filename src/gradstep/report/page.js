// Values at the pointer, read back from the drawn lines. The page is complete without it.
const text = v => Number(v.toPrecision(4)).toString();
const back = ([low, high, log], t) => log ? low * (high / low) ** t : low + t * (high - low);
for (const plot of document.querySelectorAll('svg.plot')) {
  const figure = plot.closest('figure'), [x, y] = JSON.parse(plot.dataset.hover);
  const wide = +plot.getAttribute('width'), tall = +plot.getAttribute('height');
  const lines = [...plot.querySelectorAll('[data-line]')].map(path => [path.dataset.line,
    [...path.getAttribute('d').matchAll(/(-?[\d.]+),(-?[\d.]+)/g)].map(m => [+m[1], +m[2]])]);
  let tip;
  const hide = () => { tip?.remove(); tip = null; };
  const show = event => {
    hide();
    const screen = plot.parentNode.getScreenCTM();
    const at = (event.clientX - screen.e) / screen.a - plot.getAttribute('x');
    const down = (event.clientY - screen.f) / screen.d - plot.getAttribute('y');
    if (at < -4 || at > wide + 4 || down < 0 || down > tall) return;
    let nearest = null;
    const near = lines.map(([name, points]) => {
      const best = points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a, points[0]);
      if (!nearest || Math.abs(best[0] - at) < Math.abs(nearest - at)) nearest = best[0];
      return [name, best];
    }).filter(([, p]) => Math.abs(p[0] - at) < 0.06 * wide);
    if (!near.length) return;
    const rows = near.sort((a, b) => a[1][1] - b[1][1]).slice(0, 14)
      .map(([name, p]) => `${name}  ${p[1] < -2.9 * tall ? 'above' : text(back(y, 1 - p[1] / tall))}`);
    tip = document.createElement('div');
    tip.className = 'tip';
    tip.textContent = [`at ${text(back(x, nearest / wide))}`, ...rows].join('\n');
    figure.append(tip);
    const place = figure.getBoundingClientRect(), left = event.clientX - place.left + 14;
    tip.style.left = Math.max(0, left + tip.offsetWidth > place.width ? left - tip.offsetWidth - 28 : left) + 'px';
    tip.style.top = event.clientY - place.top + 12 + 'px';
  };
  plot.ownerSVGElement.addEventListener('pointermove', show);
  plot.ownerSVGElement.addEventListener('pointerleave', hide);
}
// A click on a row of a table keeps what belongs to it in the pictures of the section, and fades the others.
for (const section of document.querySelectorAll('section')) {
  const rows = [...section.querySelectorAll('tr[data-label]')];
  for (const row of rows) row.addEventListener('click', () => {
    row.classList.toggle('picked');
    const picked = new Set(rows.filter(r => r.classList.contains('picked')).map(r => r.dataset.label));
    for (const part of section.querySelectorAll('[data-name]'))
      part.classList.toggle('faded', picked.size > 0 && !picked.has(part.dataset.name));
  });
}
