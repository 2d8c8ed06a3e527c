/* SPDX-License-Identifier: MIT *
 * runtests: guards=all
 */
/*
 * Mutexes, condition variables and semaphores in pool memory, while every block leaves and comes back:
 * private ones wherever they are, process-shared ones in pages that are declared.
 */
#include "tests/util.h"

#include <semaphore.h>

#include "src/internal.h"

#define P VAC_PAGE_BYTES

/* Two threads hand a ball to each other, each way by another kind of wait. */
struct table {
	pthread_mutex_t lock;
	pthread_cond_t turn;
	sem_t a, b;
	uint64_t ball;
};

static void lay(struct table *t, bool shared)
{
	pthread_mutexattr_t m;
	pthread_condattr_t c;

	pthread_mutexattr_init(&m);
	pthread_condattr_init(&c);
	if (shared) {
		pthread_mutexattr_setpshared(&m, PTHREAD_PROCESS_SHARED);
		pthread_condattr_setpshared(&c, PTHREAD_PROCESS_SHARED);
	}
	MUST(pthread_mutex_init(&t->lock, &m) == 0);
	MUST(pthread_cond_init(&t->turn, &c) == 0);
	MUST(sem_init(&t->a, shared, 0) == 0 && sem_init(&t->b, shared, 0) == 0);
	t->ball = 0;
}

struct game {
	struct table *t[2];
};

static void play(struct member *m)
{
	struct table *t = ((struct game *)m->arg)->t[m->nr / 2];
	unsigned side = m->nr % 2;

	while (!m->team->stop) {
		pthread_mutex_lock(&t->lock);
		while (t->ball % 2 != side && !m->team->stop)
			pthread_cond_wait(&t->turn, &t->lock);
		t->ball++;
		pthread_cond_signal(&t->turn);
		pthread_mutex_unlock(&t->lock);
		sem_post(side ? &t->a : &t->b);
		while (sem_wait(side ? &t->b : &t->a) < 0)
			;
		m->team->rounds++;
	}
	/* Whoever is left at the table is let go. */
	pthread_mutex_lock(&t->lock);
	pthread_cond_broadcast(&t->turn);
	pthread_mutex_unlock(&t->lock);
	sem_post(&t->a);
	sem_post(&t->b);
}

static int see(void *ctx, const struct vac_blocker *b)
{
	*(enum vac_blocker_class *)ctx = b->cls;
	return 0;
}

/* Movable blocks leave and come back under both; the one where shared words lie answers who they are. */
static void test_play_on(void **state UNUSED)
{
	struct vac_pool_opts po = t_opts(MIB(4));
	struct vac_offline_result res;
	enum vac_blocker_class cls = VAC_HELD_BUSY;
	struct vac_pool *pool;
	struct vac_space *s;
	struct game g;
	struct team t;
	uint64_t moved;
	char *m;
	int id;

	po.flags |= VAC_POOL_PINS_ONLY;
	pool = t_open(&po, 3);
	assert_ok(vac_block_online(pool, vac_block_add(pool, NULL), VAC_ZONE_NORMAL));
	s = t_space(pool, MIB(8));
	m = t_map(s, 8 * P, VAC_MAP_NOHUGE | VAC_MAP_POPULATE);
	g.t[0] = (struct table *)m;
	g.t[1] = (struct table *)(m + 4 * P);
	assert_ok(vac_advise(s, m + 4 * P, P, VAC_ADV_WAITWORDS));
	lay(g.t[0], false);
	lay(g.t[1], true);
	moved = t_stats(pool).migrate_folios;
	team_start(&t, 4, play, &g);
	for (int round = 0; round < (TSAN || ASAN ? 4 : 20); round++) {
		for (id = 0; id < 3; id++) {
			assert_ok(t_offline(pool, id, 60000, NULL));
			assert_ok(t_online(pool, id));
		}
		team_rounds(&t, 50);
	}
	assert_true(t_stats(pool).migrate_folios > moved);
	id = t_page(s, m + 4 * P).block;
	assert_int_equal(id, 3);
	assert_int_equal(t_offline(pool, id, 2000, &res), -EBUSY);
	assert_ok(vac_report_walk(res.report, see, &cls));
	vac_report_free(res.report);
	assert_int_equal(cls, VAC_HELD_WAITWORDS);
	team_rounds(&t, 50);
	team_stop(&t);
	assert_ok(vac_advise(s, m + 4 * P, P, VAC_ADV_NOWAITWORDS));
	assert_ok(t_offline(pool, id, 20000, NULL));
	t_close(pool);
}

/* Declared, in part ended, unmapped, dropped, and closed with some left. */
static void test_declare(void **state UNUSED)
{
	struct vac_pool *pool = t_pool(MIB(4), 2);
	struct vac_space *s = t_space(pool, MIB(8)), *two = t_space(pool, MIB(4));
	char *m = t_map(s, 16 * P, VAC_MAP_NOHUGE), *o = t_map(two, 4 * P, VAC_MAP_NOHUGE);

	assert_int_equal(vac_advise(s, m + 15 * P, 2 * P, VAC_ADV_WAITWORDS), -ENOMEM);
	assert_ok(vac_advise(s, m, 10 * P, VAC_ADV_WAITWORDS));
	assert_ok(vac_advise(two, o, 4 * P, VAC_ADV_WAITWORDS));
	assert_int_equal(t_page(s, m + 9 * P).pins, 1);
	assert_ok(vac_advise(s, m + 3 * P, 2 * P, VAC_ADV_NOWAITWORDS));
	for (int i = 0; i < 10; i++)
		assert_int_equal(t_page(s, m + i * P).pins, i != 3 && i != 4);
	assert_int_equal(t_page(two, o).pins, 1);
	assert_ok(vac_advise(s, m + 8 * P, P, VAC_ADV_DONTNEED));
	assert_int_equal(zero_bad(m + 8 * P, P), -1);
	assert_int_equal(t_page(s, m + 8 * P).pins, 0);
	assert_ok(vac_unmap(s, m + P, P));
	assert_int_equal(t_page(s, m).pins, 1);
	assert_int_equal(t_page(s, m + 2 * P).pins, 1);
	assert_ok(vac_space_destroy(two));
	t_check(pool);
	t_close(pool);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		/* First, as the first pool of a process is to look at holders: that stays. */
		cmocka_unit_test(test_declare),
		cmocka_unit_test(test_play_on),
	};

	t_filter(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
