// Answers with what it finds at the setting url.
#include "../sluice.h"

EXPORT(sluice_describe) { return describe(STR("try"), STR("0.1.0"), 0); }
EXPORT(sluice_configure) { return 0; }

EXPORT(sluice_generate) {
	str url = member(field(input(), 14), STR("url"));
	while (url.n > 0 && *url.p != '"') url.p++, url.n--;
	header headers[] = {{STR("Authorization"), STR("Bearer ${secret:KEY}")}, {STR("X-Job"), STR("bench")}, {{0, 0}, {0, 0}}};
	int h = http_open(STR("POST"), (str){url.p + 1, url.n - 2}, headers, STR("a body"));
	if (h < 0) return failed(h);
	int status = http_status(h);
	if (status != 202) return fail(STR("unavailable"), STR("upstream"), STR("the status is another"));
	char piece[4096];
	for (int n; (n = http_read(h, piece, sizeof piece)) != 0;) {
		if (n < 0) return failed(n);
		int r = emit_text((str){piece, n});
		if (r < 0) return r;
	}
	http_close(h);
	return emit_finish(STR("stop"));
}
