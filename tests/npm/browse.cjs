// node browse.cjs CHROMIUM URL TASK.json PICTURES: opens the page, types, and says as JSON what is to be seen.
const fs = require("node:fs");
const path = require("node:path");
const { chromium } = require("playwright-core");

const NO_NETWORK = ["--disable-background-networking", "--disable-component-update", "--disable-sync"];

async function open(context, url, wrong) {
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  page.on("request", (request) => request.url().startsWith(url) || wrong.push(request.url()));
  page.on("pageerror", (error) => wrong.push(error.message));
  page.on("response", (response) => response.ok() || wrong.push(`${response.status()} ${response.url()}`));
  await page.goto(url);
  await page.waitForSelector("textarea");
  return page;
}

async function type(page, texts) {
  for (const [index, text] of texts.entries()) await page.fill(`#text${index}`, text);
  await page.waitForFunction(() => document.getElementById("strongest").textContent);
  return page.evaluate(() => ({
    ...Object.fromEntries(["answer", "status", "strongest"].map((id) => [id, document.getElementById(id).textContent])),
    labels: [...document.querySelectorAll("li")].map((row) => row.innerText),
    parts: [...document.querySelectorAll("#words [title]")].map((part) => part.textContent),
    names: [...document.querySelectorAll("label")].map((label) => label.textContent),
    made: document.querySelectorAll("main img, main script").length,
    isWide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
  }));
}

async function main([executablePath, url, file, pictures]) {
  const { texts, cases } = JSON.parse(fs.readFileSync(file, "utf-8"));
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", ...NO_NETWORK] });
  const wrong = [];
  const found = { cases: [] };
  for (const { config, typed } of cases) {
    const context = await browser.newContext({ serviceWorkers: "block", viewport: { width: 375, height: 700 } });
    await context.route("**/config.json", async (route) => {
      const json = { ...(await (await route.fetch()).json()), ...config };
      await route.fulfill({ json });
    });
    const page = await open(context, url, wrong);
    found.cases.push(await type(page, typed));
    await context.close();
  }
  for (const [name, options] of [
    ["phone", { viewport: { width: 375, height: 812 }, colorScheme: "dark" }],
    ["desktop", { viewport: { width: 1200, height: 900 } }],
  ]) {
    const context = await browser.newContext(options);
    const page = await open(context, url, wrong);
    found[name] = await type(page, [texts[0]]);
    await page.screenshot({ path: path.join(pictures, `${name}.png`), fullPage: true });
    found.logits = await page.evaluate(async (each) => {
      const { Classifier } = await import("./classifier.js");
      return (await Classifier.load()).logits(each);
    }, texts.map((text) => [text].flat()));
    if (name === "phone") continue;
    await page.evaluate(() => navigator.serviceWorker.ready);
    await fetch(`${url}stop`); // the server is gone
    found.requests = wrong.splice(0);
    await page.reload();
    await page.waitForSelector("textarea");
    found.offline = await type(page, [texts[0]]);
  }
  await browser.close();
  console.log(JSON.stringify(found));
}

main(process.argv.slice(2));
