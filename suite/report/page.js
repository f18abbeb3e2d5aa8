(() => {
  const config = {responsive: true, displaylogo: false, displayModeBar: false};
  const template = JSON.parse(document.getElementById('template').textContent);
  const draw = el => {
    if (el.dataset.drawn) return;
    el.dataset.drawn = '1';
    const figure = JSON.parse(el.nextElementSibling.textContent);
    Plotly.newPlot(el, figure.data, {template, ...figure.layout}, config);
  };
  const all = document.querySelectorAll('.figure');
  const near = new IntersectionObserver(entries => entries.forEach(entry => {
    if (!entry.isIntersecting) return;
    near.unobserve(entry.target);
    draw(entry.target);
  }), {rootMargin: '600px'});
  all.forEach(el => near.observe(el));
  window.addEventListener('beforeprint', () => all.forEach(draw));
})();
