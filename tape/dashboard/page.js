// What only the browser can do: choose the theme before the first paint, tell which parts are visible, and write
// numbers in charts. No name from a feed gets here.
window.tape = (() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const choice = () => localStorage.getItem("tape-theme") || "auto";
  const isDark = () => (choice() === "auto" ? system.matches : choice() === "dark");
  const apply = () => {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    document.cookie = `tape_dark=${isDark() ? 1 : 0}; path=/; max-age=31536000; samesite=strict`;
  };
  apply();

  const visible = new Set();
  const tell = () => emitEvent("tape-visible", { parts: document.hidden ? [] : [...visible].sort(), width: innerWidth });
  const watch = () => {
    const observer = new IntersectionObserver((entries) => {
      for (const each of entries) visible[each.isIntersecting ? "add" : "delete"](each.target.dataset.part);
      tell();
    }, { rootMargin: "120px" });
    document.querySelectorAll("[data-part]").forEach((part) => observer.observe(part));
    document.addEventListener("visibilitychange", tell);
    const dark = () => emitEvent("tape-dark", isDark());
    system.addEventListener("change", () => { apply(); dark(); });
    dark();
  };

  const two = (n) => String(n).padStart(2, "0");
  const time = (ms) => {
    const at = new Date(ms);
    return `${at.getUTCFullYear()}-${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())} ` +
      `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}:${two(at.getUTCSeconds())}`;
  };
  const price = (value, decimals) =>
    value == null ? "–" : value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  const short = (value) => {
    if (value == null) return "–";
    for (const [unit, sign] of [[1e9, "B"], [1e6, "M"], [1e4, "k"]])
      if (Math.abs(value) >= unit) return `${+(value / (unit === 1e4 ? 1e3 : unit)).toPrecision(3)}${sign}`;
    return String(+value.toPrecision(4));
  };
  const line = (name, value) => `<div class="tip"><span>${name}</span><b>${value}</b></div>`;
  return {
    watch, price, short,
    theme(button) {
      const next = { auto: "dark", dark: "light", light: "auto" }[choice()];
      localStorage.setItem("tape-theme", next);
      apply();
      tape.label(button);
      emitEvent("tape-dark", isDark());
    },
    label(button) {
      button.textContent = { auto: "Auto", dark: "Dark", light: "Light" }[choice()];
      button.setAttribute("aria-label", `Theme: ${choice()}; press for the next`);
    },
    bar(points, decimals) {
      const found = (name) => points.find((each) => each.seriesName === name && each.value[1] != null);
      const bar = found("bars"), close = found("close"), volume = found("volume up") || found("volume down");
      const prices = bar
        ? ["open", "close", "low", "high"].map((name, i) => line(name, price(bar.value[i + 1], decimals)))
        : close ? [line("price", price(close.value[1], decimals))] : [];
      return time(points[0].axisValue) + prices.join("") + (volume ? line("volume", short(volume.value[1])) : "");
    },
    pace(points, unit, digits) {
      const rows = points.filter((each) => each.value[1] != null);
      return time(points[0].axisValue) + rows.map((each) => line(each.seriesName, each.value[1].toFixed(digits) + unit)).join("");
    },
    silence: (value) =>
      value == null ? "–" : value < 60 ? `${value} s` : value < 3600 ? `${value / 60} m` : `${Math.floor(value / 3600)} h ${two((value % 3600) / 60)} m`,
    change: (value) =>
      value == null ? "–" : `${value > 0 ? "▲" : value < 0 ? "▼" : ""} ${Math.abs(100 * value).toFixed(2)} %`,
  };
})();
