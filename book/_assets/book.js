/* The widget manager sets formulas through `MathJax.Hub.Queue`, which MathJax had before version 3. This gives every
   value that `window.MathJax` takes, first its settings and then MathJax itself, that one function. */
{
  const typeset = ([, , element]) => {
    const now = () => window.MathJax.startup?.promise.then(() => window.MathJax.typesetPromise([element]));
    if (document.readyState === "complete") now();
    else window.addEventListener("load", now);
  };
  const withHub = (value) => (value ? Object.assign(value, { Hub: { Queue: typeset } }) : value);
  let mathjax = withHub(window.MathJax);
  Object.defineProperty(window, "MathJax", {
    configurable: true,
    get: () => mathjax,
    set: (value) => {
      mathjax = withHub(value);
    },
  });
}
