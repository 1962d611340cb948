"""A page to try the server on, which needs nothing from elsewhere."""

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>sctnet</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto }
  img { max-width: 100%; image-rendering: pixelated } pre { overflow: auto; background: #f4f4f4 }
  label { margin-right: 1rem }
</style>
<h1>sctnet</h1>
<p>Label a picture. All that the server offers is at <a href="docs">docs</a>
(<a href="openapi.json">openapi.json</a>).</p>
<form>
  <p><label>Picture <input type="file" name="picture" accept="image/*" required></label>
  <label>Answer <select name="kind">
    <option value="image/jpeg">overlay</option>
    <option value="image/png">label map</option>
    <option value="application/json">areas, run lengths, polygons</option>
  </select></label></p>
  <p><label>Model <input name="model" placeholder="the first one"></label>
  <label>API key <input name="key" type="password" placeholder="if it has one"></label>
  <button>Label</button></p>
</form>
<p id="status" role="status"></p><img id="picture" alt="" hidden><pre id="text" hidden></pre>
<script>
  const form = document.forms[0], at = (id) => document.getElementById(id);
  form.onsubmit = async (event) => {
    event.preventDefault();
    at("picture").hidden = at("text").hidden = true;
    at("status").textContent = "Labelling ...";
    const headers = { Accept: form.kind.value }, began = performance.now();
    if (form.key.value) headers.Authorization = "Bearer " + form.key.value;
    const query = form.model.value ? "?model=" + encodeURIComponent(form.model.value) : "";
    try {
      const body = form.picture.files[0];
      const answer = await fetch("predict" + query, { method: "POST", headers, body });
      const kind = answer.headers.get("Content-Type") || "";
      if (!answer.ok) throw new Error((await answer.json()).error);
      at("status").textContent = Math.round(performance.now() - began) + " ms";
      if (kind.startsWith("image/")) {
        URL.revokeObjectURL(at("picture").src);
        at("picture").src = URL.createObjectURL(await answer.blob());
        at("picture").hidden = false;
      } else {
        const found = await answer.json();
        at("text").textContent = JSON.stringify(
          found.classes.map(({ name, pixels, percent }) => ({ name, pixels, percent })), null, 2);
        at("text").hidden = false;
      }
    } catch (error) { at("status").textContent = error.message; }
  };
</script>
</html>
"""
