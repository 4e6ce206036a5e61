"use strict";
try {
  const theme = localStorage.getItem("robharness-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* storage is forbidden, as for some files: the theme is that of the system */ }
