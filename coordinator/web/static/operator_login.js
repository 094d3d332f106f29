// The code stands behind the # of the link, which no browser sends: put it into the form, forget it, send it once.
const form = document.getElementById("login");
const code = location.hash.slice(1);
if (code) {
  history.replaceState(null, "", location.pathname);
  form.elements.code.value = code;
  form.submit();
}
