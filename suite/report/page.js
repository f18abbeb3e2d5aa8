(() => {
  const root = document.documentElement;
  const all = selector => [...document.querySelectorAll(selector)];

  // -- light and dark: the reader's choice, else what the system prefers
  const system = matchMedia('(prefers-color-scheme: dark)');
  let printing = false;
  const isDark = () => !printing && (root.dataset.theme ? root.dataset.theme === 'dark' : system.matches);
  const channels = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
  const luminance = rgb => rgb.map(v => (v / 255 <= .04045 ? v / 3294.6 : ((v / 255 + .055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  // Greys change ends (light ones are grids and grounds, others lines that must be seen); other colours keep their hue
  // and become light enough for a contrast of 3 to the dark ground.
  const darken = rgb => {
    if (Math.max(...rgb) - Math.min(...rgb) < 24) {
      return rgb.map(v => Math.round(Math.max(22 + (255 - v) * .86, v > 190 ? 0 : 140)));
    }
    while (luminance(rgb) < .13) rgb = rgb.map(v => Math.round(v * .85 + 255 * .15));
    return rgb;
  };
  const colour = text => {
    if (/^#[0-9a-f]{6}$/i.test(text)) return '#' + darken(channels(text)).map(v => v.toString(16).padStart(2, '0')).join('');
    const found = /^rgba\((\d+),\s*(\d+),\s*(\d+),\s*([\d.]+)\)$/.exec(text);
    return found ? `rgba(${darken(found.slice(1, 4).map(Number)).join(',')},${found[4]})` : text;
  };
  // Plotly's own buttons have a white ground that cannot be set: they stay as they are.
  const themed = value => typeof value === 'string' ? colour(value)
    : Array.isArray(value) ? value.map(themed)
    : value && typeof value === 'object'
      ? Object.fromEntries(Object.entries(value).map(([k, v]) => [k, k === 'updatemenus' ? v : themed(v)]))
      : value;

  // -- figures: drawn when scrolled to
  const config = {responsive: true, displaylogo: false, displayModeBar: false};
  const template = JSON.parse(document.getElementById('template').textContent);
  const figures = all('.figure');
  let library = null;
  const unpack = async () => {
    if (typeof plotlyGzip === 'undefined') throw new Error('its file is not beside this page');
    if (typeof DecompressionStream === 'undefined') throw new Error('this browser is too old to unpack it');
    const bytes = Uint8Array.from(atob(plotlyGzip), c => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
    const script = document.createElement('script');
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };
  const source = el => {
    const figure = JSON.parse(el.nextElementSibling.textContent);
    return {data: figure.data, layout: {template, uirevision: 1, ...figure.layout}};
  };
  const paint = el => {
    const figure = isDark() ? themed(source(el)) : source(el);
    return Plotly.react(el, figure.data, figure.layout, config);
  };
  const draw = async el => {
    if (el.dataset.drawn) return;
    el.dataset.drawn = '1';
    try {
      await (library ??= unpack());
      await paint(el);
    } catch (error) {
      el.textContent = `This figure needs the library that draws it, ${root.dataset.library}: ${error.message}. `
        + 'Copy it from where this page was written, or write the report again.';
      el.style.height = 'auto';
      el.classList.add('absent');
    }
  };
  const near = new IntersectionObserver(entries => entries.forEach(entry => {
    if (!entry.isIntersecting) return;
    near.unobserve(entry.target);
    draw(entry.target);
  }), {rootMargin: '600px'});
  figures.forEach(el => near.observe(el));

  // -- a figure as a file: in light colours, with what is hidden and how far one has zoomed
  const slug = text => text.toLowerCase().replace(/[^a-z0-9.=]+/g, '_').replace(/^_+|_+$/g, '').slice(0, 80);
  const title = el => {
    const section = el.closest('section')?.querySelector('h2'), panel = el.closest('.panel')?.querySelector('h4');
    let item = el.closest('.panels') ?? el.closest('.drawing');
    while (item && item.tagName !== 'H3') item = item.previousElementSibling;
    return slug([section, item, panel].filter(Boolean).map(part => part.textContent).join(' ')) || 'figure';
  };
  const save = async (el, format) => {
    await draw(el);
    const figure = source(el), shown = el.layout;
    figure.data.forEach((trace, i) => { if (el.data[i].visible !== undefined) trace.visible = el.data[i].visible; });
    for (const key of Object.keys(shown).filter(key => /^[xy]axis\d*$/.test(key) && shown[key].range)) {
      figure.layout[key] = {...figure.layout[key], range: shown[key].range, autorange: shown[key].autorange};
    }
    if (figure.data.filter(trace => trace.name && trace.showlegend !== false).length > 1) figure.layout.showlegend = true;
    figure.layout.paper_bgcolor = figure.layout.plot_bgcolor = '#ffffff';
    delete figure.layout.updatemenus;
    const size = {width: Math.max(el.clientWidth, 420), height: el.clientHeight};
    await Plotly.downloadImage(figure, {format, filename: title(el), scale: format === 'png' ? 3 : 1, ...size});
  };
  all('.save button').forEach(button => button.addEventListener('click', () =>
    save(button.closest('.drawing').querySelector('.figure'), button.dataset.format)));

  // -- the switch, kept from page to page
  const button = document.getElementById('theme');
  const repaint = () => {
    button.textContent = isDark() ? '☀ light' : '☾ dark';
    all('.legend [fill], .legend [stroke]').forEach(mark => ['fill', 'stroke'].forEach(key => {
      const own = mark.dataset[key] ??= mark.getAttribute(key) ?? '';
      if (own) mark.setAttribute(key, isDark() ? colour(own) : own);
    }));
    figures.filter(el => el.classList.contains('js-plotly-plot')).forEach(paint);
  };
  button.addEventListener('click', () => {
    root.dataset.theme = isDark() ? 'light' : 'dark';
    try {
      localStorage.setItem('report-theme', root.dataset.theme);
    } catch { /* pages opened from disk may have no storage: then the choice holds for this page */ }
    repaint();
  });
  system.addEventListener('change', repaint);
  window.addEventListener('beforeprint', () => { printing = true; figures.forEach(draw); repaint(); });
  window.addEventListener('afterprint', () => { printing = false; repaint(); });
  repaint();

  // -- tables wider than their box say so
  const cue = box => {
    const rest = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.parentElement.classList.toggle('more', rest > 8);
  };
  const boxes = all('.scroll');
  boxes.forEach(box => box.addEventListener('scroll', () => cue(box), {passive: true}));
  const sizes = new ResizeObserver(entries => entries.forEach(entry => cue(entry.target)));
  boxes.forEach(box => sizes.observe(box));
})();
