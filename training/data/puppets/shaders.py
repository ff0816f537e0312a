"""GLSL of the puppets: one vertex stage for all layers, a colour stage and a truth stage."""

from __future__ import annotations

VERTEX = """#version 330
// Camera frame in centimetres, y up; pictures have their first row at the bottom of the GL window.
in vec3 place; in vec3 normal; in vec3 rest_normal; in vec2 uv; in vec2 uv_alt; in vec4 look; in vec3 was;
uniform mat3 turn; uniform mat3 spin; uniform vec3 hub; uniform vec2 origin; uniform float scale;
uniform int kind; uniform float lip_depth; uniform vec3 light; uniform vec3 relight; uniform float upper_lip;
// How far the eyes have turned, and how much each lid shows of the picture with shut eyes; *_before: in the reference.
uniform float gazing; uniform float gazing_before; uniform float eye_light; uniform vec4 shut; uniform vec4 shut_before;
out vec2 v_uv; out float v_alpha; out float v_light; out vec3 v_was; out float v_depth; flat out int v_part;
out vec2 v_uv_alt; out float v_shut; out float v_change;
float glow(vec3 n, vec3 l) { return 0.55 + 0.45 * clamp(dot(n, l), 0.0, 1.0); }
void main() {
    vec3 p = hub + spin * place;
    vec3 turned = mix(p, turn * p, look.x);
    vec2 at = origin + scale * vec2(turned.x, -turned.y);
    // The face owns the near half of the depth range: teeth and eyeballs cannot come through it.
    float depth = clamp(-turned.z / 40.0, -0.99, 0.99) * 0.5 + (kind == 1 ? -0.5 : 0.5);
    gl_Position = vec4(at * 2.0 - 1.0, depth, 1.0);
    int part = int(look.w);
    vec4 lids = vec4(float(part == 1), float(part == 2), float(part == 3), float(part == 4));
    v_uv = kind == 3 ? mix(uv, uv_alt, gazing) : uv;
    v_uv_alt = kind == 3 ? mix(uv, uv_alt, gazing_before) : uv_alt;
    v_shut = kind == 1 ? dot(lids, shut) : 0.0;
    v_change = kind == 1 ? abs(dot(lids, shut - shut_before)) : 0.0;
    v_alpha = look.y; v_was = was; v_depth = turned.z; v_part = part;
    if (kind == 1) {
        vec3 n = turn * normalize(normal);
        v_light = clamp(glow(n, light) / glow(rest_normal, light), 0.75, 1.2) * look.z;
        v_light *= clamp(glow(n, relight) / glow(n, light), 0.78, 1.15);
    } else if (kind == 2) {
        vec3 n = turn * rest_normal;
        // Light falls in from the lips; the wet tongue passes it on, so it stays seen deeper than the socket does.
        float reach = part == 1 ? 7.5 : 4.8;
        float deep = clamp(1.06 - (lip_depth - turned.z) / reach, part == 1 ? 0.2 : 0.08, 1.0);
        v_light = deep * mix(0.6, 1.0, smoothstep(-0.15, 0.4, upper_lip - turned.y));
        // The gaps between teeth face sideways: they get their shade from there.
        v_light *= part == 2 ? mix(0.6, 1.0, smoothstep(0.2, 0.9, n.z)) : 0.72 + 0.28 * clamp(n.z, 0.0, 1.0);
    } else {
        v_light = kind == 3 ? eye_light : 1.0;
    }
}
"""

COLOUR = """#version 330
in vec2 v_uv; in vec2 v_uv_alt; in float v_shut; in float v_alpha; in float v_light; flat in int v_part;
uniform sampler2D photo; uniform sampler2D shut_photo; uniform float pad; uniform int kind; uniform vec3 paints[3];
out vec4 colour;
void main() {
    vec3 base = kind == 2 ? paints[v_part] : texture(photo, (v_uv + pad) / (1.0 + 2.0 * pad)).rgb;
    if (v_shut > 0.0) base = mix(base, texture(shut_photo, (v_uv_alt + pad) / (1.0 + 2.0 * pad)).rgb, v_shut);
    colour = vec4(base * v_light, v_alpha);
}
"""

TRUTH = """#version 330
// Out: place in the reference, whether the reference shows it, and the layer's kind.
in float v_alpha; in vec3 v_was; in vec2 v_uv; in vec2 v_uv_alt; in float v_change;
in float v_depth; uniform sampler2D seen; uniform sampler2D photo; uniform sampler2D shut_photo; uniform float pad;
uniform int kind; uniform float texel; uniform int store_depth; uniform float eye_light; uniform float eye_light_before;
out vec4 truth;
vec3 photo_at(vec2 uv) { return texture(photo, (uv + pad) / (1.0 + 2.0 * pad)).rgb; }
vec3 shut_at(vec2 uv) { return texture(shut_photo, (uv + pad) / (1.0 + 2.0 * pad)).rgb; }
// 1 where two looks of one place agree, in the worst of the colours.
float alike(vec3 off) { return 1.0 - smoothstep(0.06, 0.16, max(abs(off.r), max(abs(off.g), abs(off.b)))); }
void main() {
    if (kind == 1 && v_alpha < 0.5) discard;
    if (store_depth == 1) { truth = vec4(v_depth, float(kind), 0.0, 0.0); return; }
    float known = 1.0;
    if (kind == 1) {
        vec2 dx = dFdx(v_was.xy) / texel, dy = dFdy(v_was.xy) / texel;
        float area = abs(dx.x * dy.y - dx.y * dy.x);
        known = smoothstep(0.1, 0.3, area);
        if (v_change > 0.0) {
            // Lid skin can be pulled from the reference where that shows skin too, not lashes that are gone by now.
            known = smoothstep(0.04, 0.12, area) * alike((photo_at(v_uv) - shut_at(v_uv_alt)) * v_change);
        }
        known *= step(texture(seen, v_was.xy).r - 0.35, v_was.z);
    }
    if (kind == 2) known = 0.0;
    // An eyeball is rigid: what the reference shows of it moves with it, but for lashes, which stay with the lid.
    if (kind == 3) {
        known = alike(photo_at(v_uv) * eye_light - photo_at(v_uv_alt) * eye_light_before);
        known *= float(texture(seen, v_was.xy).g > 2.5);
    }
    vec2 inside = step(vec2(0.0), v_was.xy) * step(v_was.xy, vec2(1.0));
    truth = vec4(v_was.xy, known * inside.x * inside.y, float(kind));
}
"""
