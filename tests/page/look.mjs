import assert from 'node:assert/strict';
import { test } from 'node:test';
import { open, serious, shoot } from './support.mjs';

/** Links of views by name, and what is there when they are. */
export function look(on, views) {
  for (const [name, { link, steps = async () => {}, until, allow = [] }] of Object.entries(views)) {
    test(`${name}: nothing serious for who uses a reader, dark colours or a phone`, async () => {
      for (const form of [{}, { dark: true }, { phone: true }]) {
        const page = await open(on.tiny, link, { ...form, allow });
        await steps(page);
        await page.locator(until).first().waitFor({ timeout: 30_000 });
        await page.waitForTimeout(200);
        const label = `${name}-${form.dark ? 'dark' : form.phone ? 'phone' : 'light'}`;
        await shoot(page, label);
        assert.deepEqual(await serious(page), [], label);
        assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true, `${label} scrolls sideways`);
        await page.done();
      }
    });
  }
}
