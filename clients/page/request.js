// From a request in its long form, as answers show it, back to the fields of a link.

import { initial } from './link.js';
import { joined } from './targets.js';

const only = object => Object.values(object ?? {});

/** The fields that would ask this again, or null where no view asks so. Whether they do is for the server's plan to say. */
export function fieldsOf(kind, request, model) {
  if (!request) return null;
  const fields = initial();
  const { targets, runs } = request;
  fields.scoring = request.target_scoring ?? 'first_token';
  fields.target = texts(targets?.target);
  fields.foil = texts(targets?.foil);
  if (kind === 'trace') {
    const clean = only(runs).find(run => run.prompt);
    if (!clean || !fields.target) return null;
    fields.prompt = clean.prompt;
    const { subject } = clean.spans ?? {};
    if (typeof subject === 'string') fields.subject = subject;
    else if (Array.isArray(subject)) fields.tokens = subject.join('-');
    else return null;
    fields.arms = Object.keys(request.arms);
    fields.base = request.base ?? 'corrupted';
    Object.assign(fields, { samples: request.corrupt.samples, seed: request.corrupt.seed, noise: request.corrupt.sigma?.k ?? 3 });
    if (Array.isArray(request.layers)) fields.every = request.layers[1] ?? model?.config.num_layers ?? 1;
    else if (request.layers?.step) fields.every = request.layers.step;
    return fields;
  }
  if (kind === 'patch') {
    if (!runs.base?.prompt || !runs.source?.prompt || request.interventions.length !== 1) return null;
    const [{ site, positions, source }] = request.interventions;
    Object.assign(fields, { prompt: runs.base.prompt, source: runs.source.prompt, controls: request.controls, site });
    fields.sweep = request.sweep.includes('heads') ? 'heads' : request.sweep.includes('positions') ? 'positions' : 'layers';
    if (fields.sweep === 'heads') fields.site = 'resid_post';
    fields.map = positions.map ? positions.map.map(pair => pair.join('-')).join(',') : positions.align ? 'diff' : 'last';
    return source?.run === 'source' ? fields : null;
  }
  if (kind === 'sweep') {
    // Which data set it is, is for who asks to find out: the request has its cases.
    if (!request.corrupt || !request.cases?.length) return null;
    const { samples, seed, sigma } = request.corrupt;
    const step = only(request.arms)[0]?.interventions?.[0]?.layers?.step;
    return Object.assign(fields, {
      arms: Object.keys(request.arms), samples, seed, noise: sigma?.k ?? 3, every: step ?? 1, scoring: request.cases[0].target_scoring ?? 'first_token',
      wrong: request.filters?.expect_top1 === false ? 'keep' : 'drop', groups: request.aggregate?.by?.includes('group') ? 'yes' : 'no',
    });
  }
  if (kind === 'run') {
    const [run] = only(runs);
    if (only(runs).length !== 1 || !run.prompt || !request.read.attention?.length) return null;
    return { ...fields, prompt: run.prompt, layer: request.read.attention[0].layers[0] };
  }
  return null;
}

const texts = target => (target?.every(one => typeof one === 'string') ? joined(target) : '');
