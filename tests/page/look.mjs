import assert from 'node:assert/strict';
import { test } from 'node:test';
import { open, serious, shoot } from './support.mjs';

/** Links of views by name, and what is there when they are. */
export function look(on, views) {
  for (const [name, { link, steps = async () => {}, until, allow = [] }] of Object.entries(views)) {
    test(`${name}: nothing serious for who uses a reader, dark colours or a phone`, async () => {
      const page = await open(on.tiny, link, { allow });
      await steps(page);
      await page.locator(until).first().waitFor({ timeout: 30_000 });
      for (const form of ['light', 'dark', 'phone']) {
        await page.emulateMedia({ colorScheme: form === 'dark' ? 'dark' : 'light' });
        if (form === 'phone') await page.setViewportSize({ width: 390, height: 844 });
        await page.waitForTimeout(250);
        await shoot(page, `${name}-${form}`);
        assert.deepEqual(await serious(page), [], form);
        assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true, `${form}: the page scrolls sideways`);
      }
      await page.done();
    });
  }
}
