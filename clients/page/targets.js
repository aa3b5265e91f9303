// What is measured. The page writes several alternatives of a target with bars between them: ` voltage| electricity`.

/** The texts of a target. */
export function alternatives(text) {
  const found = text.split('|').filter(Boolean);
  return found.length ? found : [text];
}

/** A target as the page writes it. */
export const joined = texts => texts.join('|');

/** The fields of a request that say what is measured: `kinds` of the target (the server's own if left out), and its logit beside the foil's. */
export function measured({ target, foil, scoring }, kinds) {
  if (!target) return {};
  const scored = scoring === 'first_token' ? {} : { target_scoring: scoring };
  const texts = alternatives(target);
  if (!foil) return { target: texts.length > 1 ? texts : texts[0], ...(kinds && { metrics: kinds.map(kind => `${kind}:target`) }), ...scored };
  return {
    targets: { target: texts, foil: alternatives(foil) },
    metrics: [...(kinds ?? ['prob']).map(kind => `${kind}:target`), 'logit_diff:target-foil'],
    ...scored,
  };
}
